"""Locks on rows that are worked on in the background: one service at a time, also with several of them on PostgreSQL.

A lock that is not renewed belongs to a service that died: it runs out, and somebody else takes the row over. What the
old owner still wants to write finds that its token is gone.
"""

import secrets
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TypeVar

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.engine import Sessions
from service.database.tables import ClaimedTable

Row = TypeVar("Row", bound=ClaimedTable)


async def claim_due(
    session: AsyncSession, table: type[Row], limit: int, lock_time: timedelta, *conditions: ColumnElement[bool]
) -> list[Row]:
    """Locks up to `limit` due rows that meet the conditions; their `lock_token` says so.

    Those first that wait longest: the oldest ones would take every turn when there are more than turns.
    """
    now = time.time()
    due = (
        select(table.seq)
        .where(table.due_at <= now, is_free(table), *conditions)
        .order_by(table.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)  # PostgreSQL; on SQLite the statement is alone anyway
    )
    lock = (
        update(table)
        .where(table.seq.in_(due))
        .values(lock_token=secrets.token_hex(16), lock_expires_at=now + lock_time.total_seconds())
        .returning(table)
    )
    rows = list(await session.scalars(lock, execution_options={"populate_existing": True}))
    return sorted(rows, key=lambda row: row.due_at or now)


def is_free(table: type[ClaimedTable]) -> ColumnElement[bool]:
    return or_(table.lock_expires_at.is_(None), table.lock_expires_at < time.time())


async def renew_locks(
    session: AsyncSession, table: type[Row], claimed: Collection[Row], lock_time: timedelta
) -> set[str]:
    """The ids of those that are still locked for this caller; the others went to somebody else."""
    ids, tokens = {row.id for row in claimed}, {row.lock_token for row in claimed}
    renewed = await session.scalars(
        update(table)
        .where(table.id.in_(ids), table.lock_token.in_(tokens))
        .values(lock_expires_at=time.time() + lock_time.total_seconds())
        .returning(table.id)
    )
    return set(renewed)


@asynccontextmanager
async def locked_row(sessions: Sessions, claimed: Row) -> AsyncIterator[tuple[AsyncSession, Row | None]]:
    """A transaction on the claimed row; the row is None when somebody else owns it now. Gives the lock back."""
    table = type(claimed)
    async with sessions.begin() as session:
        row: Row | None = await session.scalar(
            select(table).where(table.id == claimed.id, table.lock_token == claimed.lock_token).with_for_update()
        )
        if row is not None:
            row.lock_token = row.lock_expires_at = None
        yield session, row


async def give_back(sessions: Sessions, claimed: ClaimedTable) -> None:
    """For somebody else to take at once."""
    async with locked_row(sessions, claimed):
        pass


async def release_all_locks(session: AsyncSession) -> None:
    """Only where no other service can be alive: on one machine, whose data folder is locked by this process."""
    for table in ClaimedTable.__subclasses__():
        await session.execute(
            update(table).where(table.lock_token.is_not(None)).values(lock_token=None, lock_expires_at=None)
        )
