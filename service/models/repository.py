"""All SQL of the models resource."""

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.tables import ModelRow
from service.ids import MODEL_NAME_PATTERN


async def get_model(session: AsyncSession, name: str) -> ModelRow | None:
    if not MODEL_NAME_PATTERN.fullmatch(name):
        return None
    row: ModelRow | None = await session.scalar(
        select(ModelRow).where(ModelRow.name == name, ModelRow.deleted_at.is_(None))
    )
    return row


async def list_models(session: AsyncSession) -> Sequence[ModelRow]:
    rows = select(ModelRow).where(ModelRow.deleted_at.is_(None)).order_by(ModelRow.seq.desc())
    return list(await session.scalars(rows))


async def replace_model(session: AsyncSession, model: ModelRow) -> None:
    """A second attempt of the same job makes the same names again."""
    await session.execute(delete(ModelRow).where(ModelRow.name == model.name, ModelRow.job_id == model.job_id))
    session.add(model)
