"""All SQL of the models resource."""

import time
from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.tables import CheckpointPermissionRow, ModelRow, ProjectRow
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


async def lock_model(session: AsyncSession, organization_id: str, name: str) -> ModelRow | None:
    """One that a project of the organization owns; nobody else changes it until this transaction ends."""
    if not MODEL_NAME_PATTERN.fullmatch(name):
        return None
    row: ModelRow | None = await session.scalar(
        select(ModelRow)
        .join(ProjectRow, ProjectRow.id == ModelRow.project_id)
        .where(
            ModelRow.name == name,
            ModelRow.deleted_at.is_(None),
            ProjectRow.organization_id == organization_id,
            ProjectRow.archived_at.is_(None),
        )
        .with_for_update(of=ModelRow)
    )
    return row


async def delete_model(session: AsyncSession, model: ModelRow) -> bool:
    """Its permissions go with it. False: it was deleted meanwhile."""
    now = time.time()
    is_deleted = await session.scalar(
        update(ModelRow)
        .where(ModelRow.seq == model.seq, ModelRow.deleted_at.is_(None))
        .values(deleted_at=now)
        .returning(ModelRow.seq)
    )
    if is_deleted is None:
        return False
    await session.execute(
        update(CheckpointPermissionRow)
        .where(CheckpointPermissionRow.model == model.name, CheckpointPermissionRow.deleted_at.is_(None))
        .values(deleted_at=now)
    )
    return True


async def replace_model(session: AsyncSession, model: ModelRow) -> None:
    """A second attempt of the same job makes the same names again; one that was deleted meanwhile stays deleted."""
    earlier = await session.scalar(
        select(ModelRow).where(ModelRow.name == model.name, ModelRow.job_id == model.job_id).with_for_update()
    )
    if earlier is None:
        session.add(model)
    else:
        earlier.adapter_sha256 = model.adapter_sha256


def _is_usable_by(project_id: str) -> ColumnElement[bool]:
    """The project's own, and what it was permitted to use; nobody uses the models of an archived project."""
    permitted = select(CheckpointPermissionRow.model).where(
        CheckpointPermissionRow.project_id == project_id, CheckpointPermissionRow.deleted_at.is_(None)
    )
    active = select(ProjectRow.id).where(ProjectRow.archived_at.is_(None))
    return and_(or_(ModelRow.project_id == project_id, ModelRow.name.in_(permitted)), ModelRow.project_id.in_(active))
