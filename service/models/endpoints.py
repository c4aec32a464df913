"""`/v1/models`."""

from fastapi import APIRouter

from service.dependencies import ConfiguredSettings, LoadedCatalogue, Session
from service.models import models, repository
from service.models.schemas import DeletedModel, Model, ModelList

router = APIRouter(prefix="/models", tags=["Models"])


@router.get("")
async def list_models(session: Session, catalogue: LoadedCatalogue, settings: ConfiguredSettings) -> ModelList:
    """Base models that can be tuned, and what was tuned from them, checkpoints included."""
    tuned = [Model.from_row(row, settings.organization_id) for row in await repository.list_models(session)]
    return ModelList(data=[Model.from_entry(entry) for entry in catalogue.models] + tuned)


@router.get("/{model}")
async def retrieve_model(
    model: str, session: Session, catalogue: LoadedCatalogue, settings: ConfiguredSettings
) -> Model:
    """One model."""
    if (entry := catalogue.get(model)) is not None:
        return Model.from_entry(entry)
    return Model.from_row(await models.get_tuned_model(session, model), settings.organization_id)


@router.delete("/{model}")
async def delete_model(model: str, session: Session, catalogue: LoadedCatalogue) -> DeletedModel:
    """Deletes a tuned model: requests for it answer 404 at once."""
    await models.delete_model(session, catalogue, model)
    return DeletedModel(id=model)
