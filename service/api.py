"""Table of contents of the API: one line per resource."""

from fastapi import APIRouter

from service.files.endpoints import router as files
from service.fine_tuning.endpoints import router as fine_tuning
from service.inference.endpoints import router as inference
from service.models.endpoints import router as models

router = APIRouter(prefix="/v1")
router.include_router(files)
router.include_router(fine_tuning)
router.include_router(models)
router.include_router(inference)
