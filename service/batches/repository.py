"""All SQL of the batches resource."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.batches.status import BatchStatus
from service.database.claims import claim_due
from service.database.engine import Sessions
from service.database.tables import BatchRow
from service.pagination import paginate

LOCK_TIME = timedelta(seconds=30)


async def get_batch(session: AsyncSession, project_id: str, batch_id: str) -> BatchRow | None:
    row: BatchRow | None = await session.scalar(
        select(BatchRow).where(BatchRow.id == batch_id, BatchRow.project_id == project_id)
    )
    return row


async def lock_batch(session: AsyncSession, project_id: str, batch_id: str) -> BatchRow | None:
    """The row, and nobody else changes it until this transaction ends."""
    row: BatchRow | None = await session.scalar(
        select(BatchRow).where(BatchRow.id == batch_id, BatchRow.project_id == project_id).with_for_update()
    )
    return row


async def list_batches(
    session: AsyncSession, project_id: str, *, after: str | None, limit: int
) -> tuple[list[BatchRow], bool]:
    return await paginate(
        session, select(BatchRow), BatchRow, BatchRow.project_id == project_id, after=after, limit=limit
    )


async def claim_due_batches(sessions: Sessions, limit: int, *, can_run: bool) -> Sequence[BatchRow]:
    """Without `can_run`, requests that wait for answers are left to another service, or to the end of their window."""
    is_mine = or_(BatchRow.status != BatchStatus.IN_PROGRESS, BatchRow.expires_at <= time.time())
    async with sessions.begin() as session:
        return await claim_due(session, BatchRow, limit, LOCK_TIME, *[] if can_run else [is_mine])


@dataclass(frozen=True)
class Sight:
    """What whoever works on a batch needs to see of it all the time."""

    status: str
    lock_token: str | None
    expires_at: float


async def look_at(sessions: Sessions, batch_ids: Collection[str]) -> dict[str, Sight]:
    columns = (BatchRow.id, BatchRow.status, BatchRow.lock_token, BatchRow.expires_at)
    async with sessions() as session:
        found = await session.execute(select(*columns).where(BatchRow.id.in_(batch_ids)))
        return {batch_id: Sight(status, token, expires_at) for batch_id, status, token, expires_at in found}


async def record_progress(sessions: Sessions, claimed: BatchRow, columns: Mapping[str, int]) -> None:
    """Nothing, when somebody else owns the batch now."""
    async with sessions.begin() as session:
        await session.execute(
            update(BatchRow)
            .where(BatchRow.id == claimed.id, BatchRow.lock_token == claimed.lock_token)
            .values(**columns)
        )
