"""`/v1/models`."""

from fastapi import APIRouter

from service.auth import Reader, Writer
from service.dependencies import LoadedCatalogue, ServingEngines, Session
from service.models import models, repository
from service.models.schemas import DeletedModel, Model, ModelList

router = APIRouter(prefix="/models", tags=["Models"])


@router.get("")
async def list_models(
    caller: Reader, session: Session, catalogue: LoadedCatalogue, engines: ServingEngines
) -> ModelList:
    """Base models that can be tuned, and what was tuned from them, checkpoints included.

    `is_served` tells whether this server also answers requests for a model.
    """
    rows = await repository.list_usable_models(session, caller.project_id)
    served = models.served_bases(catalogue, engines)
    tuned = [Model.from_row(row, caller.organization_id, row.base_model in served) for row in rows]
    return ModelList(data=[Model.from_entry(entry, entry.name in served) for entry in catalogue.models] + tuned)


@router.get("/{model:path}")
async def retrieve_model(
    model: str, caller: Reader, session: Session, catalogue: LoadedCatalogue, engines: ServingEngines
) -> Model:
    """One model."""
    served = models.served_bases(catalogue, engines)
    if (entry := catalogue.get(model)) is not None:
        return Model.from_entry(entry, entry.name in served)
    row = await models.get_tuned_model(session, caller.project_id, model)
    return Model.from_row(row, caller.organization_id, row.base_model in served)


@router.delete("/{model:path}")
async def delete_model(model: str, caller: Writer, session: Session, catalogue: LoadedCatalogue) -> DeletedModel:
    """Deletes a tuned model: requests for it answer 404 at once."""
    await models.delete_model(session, catalogue, caller.project_id, model)
    return DeletedModel(id=model)
