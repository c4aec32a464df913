"""Locks on job rows: one dispatcher at a time takes a step for a job, also with several of them on PostgreSQL."""

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from sqlalchemy import or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.engine import Sessions
from service.database.tables import JobRow

LOCK_TIME = timedelta(seconds=30)
"""A lock that is not renewed for so long belongs to a dispatcher that died."""


async def claim_due_jobs(sessions: Sessions, limit: int) -> list[JobRow]:
    """Locks up to `limit` due rows for this caller and returns them, each with its `lock_token`, oldest first."""
    now = time.time()
    due = (
        select(JobRow.seq)
        .where(JobRow.due_at <= now, or_(JobRow.lock_token.is_(None), JobRow.lock_expires_at < now))
        .order_by(JobRow.seq)
        .limit(limit)
        .with_for_update(skip_locked=True)  # PostgreSQL; on SQLite the statement is alone anyway
    )
    lock = (
        update(JobRow)
        .where(JobRow.seq.in_(due))
        .values(lock_token=secrets.token_hex(16), lock_expires_at=now + LOCK_TIME.total_seconds())
        .returning(JobRow)
    )
    async with sessions.begin() as session:
        rows = list(await session.scalars(lock, execution_options={"populate_existing": True}))
    return sorted(rows, key=lambda row: row.seq)


async def renew_lock(sessions: Sessions, job: JobRow) -> bool:
    """False: the lock went to somebody else."""
    async with sessions.begin() as session:
        renewed = await session.scalar(
            update(JobRow)
            .where(JobRow.id == job.id, JobRow.lock_token == job.lock_token)
            .values(lock_expires_at=time.time() + LOCK_TIME.total_seconds())
            .returning(JobRow.seq)
        )
    return renewed is not None


@asynccontextmanager
async def locked_row(sessions: Sessions, claimed: JobRow) -> AsyncIterator[tuple[AsyncSession, JobRow | None]]:
    """A transaction on the claimed row; the row is None when somebody else owns it now. Gives the lock back."""
    async with sessions.begin() as session:
        row = await session.scalar(
            select(JobRow).where(JobRow.id == claimed.id, JobRow.lock_token == claimed.lock_token).with_for_update()
        )
        if row is not None:
            row.lock_token = row.lock_expires_at = None
        yield session, row


async def release_all_locks(sessions: Sessions) -> None:
    """Only where no other dispatcher can be alive: on one machine, whose data folder is locked by this process."""
    async with sessions.begin() as session:
        await session.execute(update(JobRow).values(lock_token=None, lock_expires_at=None))
