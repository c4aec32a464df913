"""All SQL of the fine-tuning resource."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.tables import CheckpointRow, EventRow, JobRow
from service.fine_tuning.status import JobStatus
from service.ids import new_event_id
from service.pagination import paginate


@dataclass(frozen=True)
class NewEvent:
    key: str
    """What it is about, unique in its job."""
    message: str
    level: Literal["info", "warn", "error"] = "info"
    type: Literal["message", "metrics"] = "message"
    data: dict[str, Any] | None = None
    created_at: float = field(default_factory=time.time)


async def get_job(session: AsyncSession, job_id: str) -> JobRow | None:
    row: JobRow | None = await session.scalar(select(JobRow).where(JobRow.id == job_id))
    return row


async def lock_job(session: AsyncSession, job_id: str) -> JobRow | None:
    """The row, and nobody else changes it until this transaction ends."""
    row: JobRow | None = await session.scalar(select(JobRow).where(JobRow.id == job_id).with_for_update())
    return row


async def list_jobs(session: AsyncSession, *, after: str | None, limit: int) -> tuple[list[JobRow], bool]:
    return await paginate(session, select(JobRow), JobRow, after=after, limit=limit)


async def list_events(
    session: AsyncSession, job_id: str, *, after: str | None, limit: int
) -> tuple[list[EventRow], bool]:
    events = select(EventRow).where(EventRow.job_id == job_id)
    return await paginate(session, events, EventRow, after=after, limit=limit)


async def list_checkpoints(
    session: AsyncSession, job_id: str, *, after: str | None, limit: int
) -> tuple[list[CheckpointRow], bool]:
    checkpoints = select(CheckpointRow).where(CheckpointRow.job_id == job_id)
    return await paginate(session, checkpoints, CheckpointRow, after=after, limit=limit)


async def count_running(session: AsyncSession) -> int:
    """Jobs that have an execution, or are about to: cancelled ones count until their process is gone."""
    running = select(func.count()).select_from(JobRow).where(JobRow.execution.is_not(None))
    return await session.scalar(running) or 0


async def has_older_queued(session: AsyncSession, job: JobRow) -> bool:
    older = select(JobRow.seq).where(
        JobRow.status == JobStatus.QUEUED, JobRow.execution.is_(None), JobRow.seq < job.seq
    )
    return await session.scalar(older.limit(1)) is not None


async def replace_checkpoint(session: AsyncSession, checkpoint: CheckpointRow) -> None:
    """A second attempt reaches the same steps again: its checkpoint takes the place of the first one's."""
    await session.execute(
        delete(CheckpointRow).where(
            CheckpointRow.job_id == checkpoint.job_id, CheckpointRow.step_number == checkpoint.step_number
        )
    )
    session.add(checkpoint)


def add_events(session: AsyncSession, job_id: str, events: Sequence[NewEvent]) -> None:
    session.add_all(
        EventRow(
            id=new_event_id(),
            job_id=job_id,
            key=event.key,
            created_at=event.created_at,
            level=event.level,
            message=event.message,
            type=event.type,
            data=event.data,
        )
        for event in events
    )
