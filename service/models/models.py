"""The rules of models: which names exist, and what may be deleted."""

from sqlalchemy.ext.asyncio import AsyncSession

from service.database.engine import Sessions
from service.database.tables import ModelRow
from service.errors import InvalidRequest, NotFound, PermissionDenied
from service.inference.engines import Engines
from service.inference.routing import FindServedModel, ServedModel
from service.models import repository
from tuning.catalogue import Catalogue


def served_model_finder(sessions: Sessions, catalogue: Catalogue) -> FindServedModel:
    """A lookup with a short session of its own: generation takes seconds, and no transaction stays open over it."""

    async def find(project_id: str, name: str) -> ServedModel | None:
        if (entry := catalogue.get(name)) is not None:
            return ServedModel(name, entry, None)
        async with sessions() as session:
            row = await repository.get_usable_model(session, project_id, name)
        base = catalogue.get(row.base_model) if row is not None else None
        if row is None or base is None:
            return None
        return ServedModel(name, base, row.adapter_sha256)

    return find


def served_bases(catalogue: Catalogue, engines: Engines | None) -> set[str]:
    """The names of the base models that this server answers for."""
    return set() if engines is None else {entry.name for entry in catalogue.models if engines.serves(entry)}


async def get_tuned_model(session: AsyncSession, project_id: str, name: str) -> ModelRow:
    row = await repository.get_usable_model(session, project_id, name)
    if row is None:
        raise no_such_model(name)
    return row


async def delete_model(session: AsyncSession, catalogue: Catalogue, project_id: str, name: str) -> None:
    """The name answers 404 from now on. The adapter's files stay: another name may stand for the same content."""
    if catalogue.get(name) is not None:
        raise InvalidRequest(f"The model '{name}' is a base model of this server and cannot be deleted.", param="model")
    row = await get_tuned_model(session, project_id, name)
    if row.project_id != project_id:
        raise PermissionDenied(
            f"The model '{name}' belongs to another project, which permits its use but not its deletion.", param="model"
        )
    if not await repository.delete_model(session, row):
        raise no_such_model(name)


def no_such_model(name: str) -> NotFound:
    return NotFound(f"The model '{name}' does not exist", param="model", code="model_not_found")
