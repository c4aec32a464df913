"""All SQL of checkpoint permissions."""

import time
from collections.abc import Collection, Sequence

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.tables import CheckpointPermissionRow
from service.pagination import paginate


async def list_permissions(
    session: AsyncSession, model: str, *, project_id: str | None, after: str | None, limit: int, ascending: bool
) -> tuple[list[CheckpointPermissionRow], bool]:
    permissions = select(CheckpointPermissionRow).where(CheckpointPermissionRow.deleted_at.is_(None))
    if project_id is not None:
        permissions = permissions.where(CheckpointPermissionRow.project_id == project_id)
    scope = CheckpointPermissionRow.model == model
    return await paginate(
        session, permissions, CheckpointPermissionRow, scope, after=after, limit=limit, ascending=ascending
    )


async def find_permissions(
    session: AsyncSession, model: str, project_ids: Collection[str]
) -> Sequence[CheckpointPermissionRow]:
    """Those of the model that these projects have."""
    return list(
        await session.scalars(
            select(CheckpointPermissionRow).where(
                CheckpointPermissionRow.model == model,
                CheckpointPermissionRow.project_id.in_(project_ids),
                CheckpointPermissionRow.deleted_at.is_(None),
            )
        )
    )


async def delete_permission(session: AsyncSession, model: str, permission_id: str) -> bool:
    """False: there is none."""
    deleted = await session.scalar(
        update(CheckpointPermissionRow)
        .where(
            CheckpointPermissionRow.id == permission_id,
            CheckpointPermissionRow.model == model,
            CheckpointPermissionRow.deleted_at.is_(None),
        )
        .values(deleted_at=time.time())
        .returning(CheckpointPermissionRow.seq)
    )
    return deleted is not None
