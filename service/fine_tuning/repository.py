"""All SQL of the fine-tuning resource."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.tables import CheckpointRow, EventRow, JobMetadataRow, JobRow
from service.ids import new_event_id
from service.pagination import paginate

MAX_KEYS_A_QUERY = 10_000  # SQLite takes 32,766 values in a statement; a run may tell more while the service is down


@dataclass(frozen=True)
class NewEvent:
    key: str
    """What it is about, unique in its job."""
    message: str
    level: Literal["info", "warn", "error"] = "info"
    type: Literal["message", "metrics"] = "message"
    data: dict[str, Any] | None = None
    created_at: float = field(default_factory=time.time)


async def get_job(session: AsyncSession, project_id: str, job_id: str) -> JobRow | None:
    row: JobRow | None = await session.scalar(
        select(JobRow).where(JobRow.id == job_id, JobRow.project_id == project_id)
    )
    return row


async def lock_job(session: AsyncSession, project_id: str, job_id: str) -> JobRow | None:
    """The row, and nobody else changes it until this transaction ends."""
    row: JobRow | None = await session.scalar(
        select(JobRow).where(JobRow.id == job_id, JobRow.project_id == project_id).with_for_update()
    )
    return row


async def list_jobs(
    session: AsyncSession, project_id: str, *, metadata: Mapping[str, str] | None, after: str | None, limit: int
) -> tuple[list[JobRow], bool]:
    """`metadata`: only jobs that have all of these pairs; None: all jobs, and an empty one: jobs without metadata."""
    jobs = select(JobRow)
    if metadata == {}:
        jobs = jobs.where(JobRow.job_metadata.is_(None))
    for key, value in (metadata or {}).items():
        pair = select(JobMetadataRow.job_seq).where(JobMetadataRow.key == key, JobMetadataRow.value == value)
        jobs = jobs.where(JobRow.seq.in_(pair))
    return await paginate(session, jobs, JobRow, JobRow.project_id == project_id, after=after, limit=limit)


async def add_job(session: AsyncSession, job: JobRow) -> None:
    session.add(job)
    await session.flush()
    session.add_all(
        JobMetadataRow(job_seq=job.seq, key=key, value=value) for key, value in (job.job_metadata or {}).items()
    )


async def list_events(
    session: AsyncSession, job_id: str, *, after: str | None, limit: int
) -> tuple[list[EventRow], bool]:
    return await paginate(session, select(EventRow), EventRow, EventRow.job_id == job_id, after=after, limit=limit)


async def list_checkpoints(
    session: AsyncSession, job_id: str, *, after: str | None, limit: int
) -> tuple[list[CheckpointRow], bool]:
    return await paginate(
        session, select(CheckpointRow), CheckpointRow, CheckpointRow.job_id == job_id, after=after, limit=limit
    )


async def make_due(session: AsyncSession, executions: Collection[str]) -> None:
    """A step that is under way finds that the time has changed, and the next one follows it at once."""
    await session.execute(update(JobRow).where(JobRow.execution.in_(executions)).values(due_at=time.time()))


async def replace_checkpoint(session: AsyncSession, checkpoint: CheckpointRow) -> None:
    """A second attempt reaches the same steps again: its checkpoint takes the place of the first one's."""
    await session.execute(
        delete(CheckpointRow).where(CheckpointRow.job_id == checkpoint.job_id, CheckpointRow.model == checkpoint.model)
    )
    session.add(checkpoint)


async def add_new_events(session: AsyncSession, job_id: str, events: Sequence[NewEvent]) -> None:
    """Leaves out those whose key was told before: a second attempt reaches the same steps again."""
    new = {event.key: event for event in reversed(events)}  # of two with one key, the first
    keys = list(new)
    for start in range(0, len(keys), MAX_KEYS_A_QUERY):
        some = keys[start : start + MAX_KEYS_A_QUERY]
        told = select(EventRow.key).where(EventRow.job_id == job_id, EventRow.key.in_(some))
        for key in await session.scalars(told):
            del new[key]
    add_events(session, job_id, [event for event in events if new.get(event.key) is event])


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
