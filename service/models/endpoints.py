"""`/v1/models`."""

from fastapi import APIRouter

from service.auth import Reader, Writer
from service.dependencies import LoadedCatalogue, Session
from service.models import models, repository
from service.models.schemas import DeletedModel, Model, ModelList

router = APIRouter(prefix="/models", tags=["Models"])


@router.get("")
async def list_models(caller: Reader, session: Session, catalogue: LoadedCatalogue) -> ModelList:
    """Base models that can be tuned, and what was tuned from them, checkpoints included."""
    rows = await repository.list_usable_models(session, caller.project_id)
    tuned = [Model.from_row(row, caller.organization_id) for row in rows]
    return ModelList(data=[Model.from_entry(entry) for entry in catalogue.models] + tuned)


@router.get("/{model:path}")
async def retrieve_model(model: str, caller: Reader, session: Session, catalogue: LoadedCatalogue) -> Model:
    """One model."""
    if (entry := catalogue.get(model)) is not None:
        return Model.from_entry(entry)
    return Model.from_row(await models.get_tuned_model(session, caller.project_id, model), caller.organization_id)


@router.delete("/{model:path}")
async def delete_model(model: str, caller: Writer, session: Session, catalogue: LoadedCatalogue) -> DeletedModel:
    """Deletes a tuned model: requests for it answer 404 at once."""
    await models.delete_model(session, catalogue, caller.project_id, model)
    return DeletedModel(id=model)
