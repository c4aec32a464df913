"""Table of contents of the API: one line per resource."""

from service.api_route import ApiRouter
from service.batches.endpoints import router as batches
from service.checkpoint_permissions.endpoints import router as checkpoint_permissions
from service.files.endpoints import router as files
from service.fine_tuning.endpoints import router as fine_tuning
from service.fine_tuning.estimate_endpoints import router as estimates
from service.graders.endpoints import router as graders
from service.inference.endpoints import router as inference
from service.models.endpoints import router as models
from service.projects.endpoints import router as projects
from service.uploads.endpoints import router as uploads
from service.webhooks.endpoints import router as webhooks

router = ApiRouter(prefix="/v1")
router.include_router(files)
router.include_router(uploads)
router.include_router(estimates)
router.include_router(fine_tuning)
router.include_router(checkpoint_permissions)
router.include_router(graders)
router.include_router(models)
router.include_router(inference)
router.include_router(batches)
router.include_router(projects)
router.include_router(webhooks)
