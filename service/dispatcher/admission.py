"""Who may start: the oldest queued jobs, as many as there is room for, in one transaction for all of them.

An execution is *named* here and started by a later step. A crash between the two finds it by its name.
"""

import time

from sqlalchemy import Select, String, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.claims import is_free
from service.database.engine import Sessions
from service.database.tables import JobRow
from service.fine_tuning.status import JobStatus

_LOCK = 4710023  # any number that is always the same, and not the migrations'


async def admit_queued(sessions: Sessions, max_running: int) -> None:
    """Several dispatchers at once admit no more than one would."""
    async with sessions.begin() as session:
        if await session.scalar(select(_waiting().exists())) and await _is_alone(session):
            room = max_running - await _count_running(session)
            if room > 0:
                await _admit(session, room)


def _waiting() -> Select[int]:
    now = time.time()
    return select(JobRow.seq).where(
        JobRow.status == JobStatus.QUEUED,
        JobRow.execution.is_(None),
        JobRow.is_paused.is_(False),
        or_(JobRow.not_before.is_(None), JobRow.not_before <= now),
        is_free(JobRow),
    )


async def _is_alone(session: AsyncSession) -> bool:
    """Whether nobody else counts and admits until this transaction ends. On SQLite every transaction is alone."""
    if session.get_bind().dialect.name != "postgresql":
        return True
    return bool(await session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _LOCK}))


async def _count_running(session: AsyncSession) -> int:
    """Jobs that have an execution, or are about to: cancelled ones count until their process is gone."""
    running = select(func.count()).select_from(JobRow).where(JobRow.execution.is_not(None))
    return await session.scalar(running) or 0


async def _admit(session: AsyncSession, room: int) -> None:
    oldest = _waiting().order_by(JobRow.seq).limit(room).with_for_update(skip_locked=True)
    attempt = JobRow.attempt + 1
    await session.execute(
        update(JobRow)
        .where(JobRow.seq.in_(oldest))
        .values(
            attempt=attempt,
            execution=JobRow.id + "-" + attempt.cast(String),
            next_event_part=1,
            stopping_since=None,
            launched_at=None,
            not_before=None,
            due_at=time.time(),
        )
        .execution_options(synchronize_session=False)
    )
