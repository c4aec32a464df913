"""All SQL of the batches resource, the locks of those who work on them included."""

import secrets
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.batches.status import BatchStatus
from service.database.engine import Sessions
from service.database.tables import BatchRow
from service.pagination import paginate

LOCK_TIME = timedelta(seconds=30)
"""A lock that is not renewed for so long belongs to a service that died."""


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
    """Locks up to `limit` due rows for this caller, oldest first; their `lock_token` says so.

    Without `can_run`, requests that wait for answers are left to another service, or to the end of their window.
    """
    now = time.time()
    due = select(BatchRow.seq).where(
        BatchRow.due_at <= now, or_(BatchRow.lock_token.is_(None), BatchRow.lock_expires_at < now)
    )
    if not can_run:
        due = due.where(or_(BatchRow.status != BatchStatus.IN_PROGRESS, BatchRow.expires_at <= now))
    due = due.order_by(BatchRow.seq).limit(limit).with_for_update(skip_locked=True)
    lock = (
        update(BatchRow)
        .where(BatchRow.seq.in_(due))
        .values(lock_token=secrets.token_hex(16), lock_expires_at=now + LOCK_TIME.total_seconds())
        .returning(BatchRow)
    )
    async with sessions.begin() as session:
        rows = list(await session.scalars(lock, execution_options={"populate_existing": True}))
    return sorted(rows, key=lambda row: row.seq)


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


async def renew_locks(sessions: Sessions, lock_tokens: Collection[str | None]) -> None:
    async with sessions.begin() as session:
        await session.execute(
            update(BatchRow)
            .where(BatchRow.lock_token.in_(lock_tokens))
            .values(lock_expires_at=time.time() + LOCK_TIME.total_seconds())
        )


async def record_progress(sessions: Sessions, claimed: BatchRow, columns: Mapping[str, int]) -> None:
    """Nothing, when somebody else owns the batch now."""
    async with sessions.begin() as session:
        await session.execute(
            update(BatchRow)
            .where(BatchRow.id == claimed.id, BatchRow.lock_token == claimed.lock_token)
            .values(**columns)
        )


@asynccontextmanager
async def locked_row(sessions: Sessions, claimed: BatchRow) -> AsyncIterator[tuple[AsyncSession, BatchRow | None]]:
    """A transaction on the claimed row; the row is None when somebody else owns it now. Gives the lock back."""
    async with sessions.begin() as session:
        row = await session.scalar(
            select(BatchRow)
            .where(BatchRow.id == claimed.id, BatchRow.lock_token == claimed.lock_token)
            .with_for_update()
        )
        if row is not None:
            row.lock_token = row.lock_expires_at = None
        yield session, row


async def release_all_batch_locks(sessions: Sessions) -> None:
    """Only where no other service can be alive: on one machine, whose data folder is locked by this process."""
    async with sessions.begin() as session:
        await session.execute(update(BatchRow).values(lock_token=None, lock_expires_at=None))
