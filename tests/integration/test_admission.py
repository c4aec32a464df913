"""Which queued jobs may start: the oldest, no more than there is room for, whoever asks and however often."""

import asyncio
import time
from typing import Any

from sqlalchemy import select, update

from service.database.engine import Sessions
from service.database.tables import JobRow
from service.dispatcher.admission import admit_queued
from tests.fixtures.databases import job_row


async def add_job(sessions: Sessions, **columns: Any) -> str:
    row = job_row(**columns)
    async with sessions.begin() as session:
        session.add(row)
    return row.id


async def admitted(sessions: Sessions) -> dict[str, str]:
    """Job id → the name of its execution."""
    async with sessions() as session:
        rows = await session.scalars(select(JobRow).where(JobRow.execution.is_not(None)).order_by(JobRow.seq))
        return {row.id: row.execution or "" for row in rows}


async def test_the_oldest_are_admitted_as_far_as_there_is_room(sessions: Sessions) -> None:
    jobs = [await add_job(sessions) for _ in range(5)]
    await admit_queued(sessions, 2)
    assert await admitted(sessions) == {job: f"{job}-1" for job in jobs[:2]}
    await admit_queued(sessions, 2)
    assert len(await admitted(sessions)) == 2
    await admit_queued(sessions, 3)
    assert list(await admitted(sessions)) == jobs[:3]


async def test_many_dispatchers_at_once_admit_no_more_than_one_would(sessions: Sessions) -> None:
    for _ in range(20):
        await add_job(sessions)
    await asyncio.gather(*(admit_queued(sessions, 7) for _ in range(8)))
    assert len(await admitted(sessions)) == 7


async def test_what_is_paused_or_has_just_crashed_or_is_checked_still_waits(sessions: Sessions) -> None:
    await add_job(sessions, is_paused=True)
    crashed = await add_job(sessions, not_before=time.time() + 60, attempt=1)
    await add_job(sessions, status="validating_files")
    ready = await add_job(sessions)
    await admit_queued(sessions, 10)
    assert list(await admitted(sessions)) == [ready]
    async with sessions.begin() as session:
        await session.execute(update(JobRow).where(JobRow.id == crashed).values(not_before=time.time() - 1))
    await admit_queued(sessions, 10)
    assert (await admitted(sessions))[crashed] == f"{crashed}-2"


async def test_a_limit_of_none_starts_nothing(sessions: Sessions) -> None:
    await add_job(sessions)
    await admit_queued(sessions, 0)
    assert await admitted(sessions) == {}
