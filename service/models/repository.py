"""All SQL of the models resource."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.tables import CheckpointPermissionRow, ModelRow
from service.ids import MODEL_NAME_PATTERN


async def get_usable_model(session: AsyncSession, project_id: str, name: str) -> ModelRow | None:
    """One that the project owns or was permitted to use."""
    if not MODEL_NAME_PATTERN.fullmatch(name):
        return None
    row: ModelRow | None = await session.scalar(
        select(ModelRow).where(ModelRow.name == name, ModelRow.deleted_at.is_(None), _is_usable_by(project_id))
    )
    return row


async def list_usable_models(session: AsyncSession, project_id: str) -> Sequence[ModelRow]:
    rows = select(ModelRow).where(ModelRow.deleted_at.is_(None), _is_usable_by(project_id))
    return list(await session.scalars(rows.order_by(ModelRow.seq.desc())))


def _is_usable_by(project_id: str) -> ColumnElement[bool]:
    permitted = select(CheckpointPermissionRow.model).where(CheckpointPermissionRow.project_id == project_id)
    return or_(ModelRow.project_id == project_id, ModelRow.name.in_(permitted))


async def replace_model(session: AsyncSession, model: ModelRow) -> None:
    """A second attempt of the same job makes the same names again."""
    await session.execute(delete(ModelRow).where(ModelRow.name == model.name, ModelRow.job_id == model.job_id))
    session.add(model)
