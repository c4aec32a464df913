"""All SQL of removals: a record of what to remove is written with the change that makes it needless."""

import time
from collections.abc import Collection, Sequence
from datetime import timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.tables import RemovalRow

RETRY_AFTER = timedelta(minutes=5)
"""A removal that was begun and is still there then: its sweeper died, or the storage did not answer."""


def add_removals(session: AsyncSession, keys: Collection[str], *, due_at: float | None = None) -> None:
    """Due at once unless told otherwise."""
    due_at = time.time() if due_at is None else due_at
    session.add_all(RemovalRow(key=key, due_at=due_at) for key in keys)


async def take_back(session: AsyncSession, key: str, due_at: float) -> bool:
    """False: it was due, and the bytes may be gone."""
    removal = delete(RemovalRow).where(RemovalRow.key == key, RemovalRow.due_at == due_at)
    return await session.scalar(removal.returning(RemovalRow.key)) is not None


async def make_due(session: AsyncSession, key: str) -> None:
    await session.execute(update(RemovalRow).where(RemovalRow.key == key).values(due_at=time.time()))


async def claim_due(session: AsyncSession, limit: int) -> Sequence[str]:
    """Keys that no other sweeper takes for a while."""
    now = time.time()
    due = (
        select(RemovalRow.key)
        .where(RemovalRow.due_at <= now)
        .order_by(RemovalRow.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)  # PostgreSQL; on SQLite the statement is alone anyway
    )
    claim = update(RemovalRow).where(RemovalRow.key.in_(due)).values(due_at=now + RETRY_AFTER.total_seconds())
    return list(await session.scalars(claim.returning(RemovalRow.key)))


async def forget(session: AsyncSession, keys: Collection[str]) -> None:
    await session.execute(delete(RemovalRow).where(RemovalRow.key.in_(keys)))
