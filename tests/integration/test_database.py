"""The migrations make the tables that the code works with, on both databases; locks go to one dispatcher at a time."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text, update

from service.database.claims import claim_due, locked_row, renew_locks
from service.database.engine import Sessions, create_engine, create_sessions, migrate
from service.database.tables import JobRow, Table
from service.dispatcher.loop import LOCK_TIME
from tests.fixtures.databases import job_row
from tests.fixtures.service import new_database


@pytest.fixture(params=["sqlite", "postgresql"])
async def sessions(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Sessions]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'test.db'}" if request.param == "sqlite" else new_database()
    engine = create_engine(url)
    await asyncio.gather(*[migrate(engine) for _ in range(3)])  # several services may start at once
    yield create_sessions(engine)
    await engine.dispose()


async def add_jobs(sessions: Sessions, count: int) -> None:
    async with sessions.begin() as session:
        for _ in range(count):
            session.add(job_row(due_at=time.time()))


async def claim_due_jobs(sessions: Sessions, limit: int) -> list[JobRow]:
    async with sessions.begin() as session:
        return await claim_due(session, JobRow, limit, LOCK_TIME)


async def test_the_migrations_make_the_tables(sessions: Sessions) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), Table.metadata))

    async with sessions() as session:
        connection = await session.connection()
        assert await connection.run_sync(differences) == []


async def test_a_due_job_goes_to_one_of_many_dispatchers(sessions: Sessions) -> None:
    await add_jobs(sessions, 20)
    claims = await asyncio.gather(*[claim_due_jobs(sessions, 10) for _ in range(8)])
    claimed = [job.id for claim in claims for job in claim]
    assert len(claimed) == len(set(claimed))
    rest = [job.id for job in await claim_due_jobs(sessions, 20)]
    assert len(set(claimed) | set(rest)) == 20
    assert await claim_due_jobs(sessions, 20) == []


async def test_a_lock_that_ran_out_is_taken_over_and_its_old_owner_changes_nothing(sessions: Sessions) -> None:
    await add_jobs(sessions, 1)
    [old] = await claim_due_jobs(sessions, 1)
    async with sessions.begin() as session:
        await session.execute(update(JobRow).values(lock_expires_at=0))
    [new] = await claim_due_jobs(sessions, 1)
    async with sessions.begin() as session:
        assert await renew_locks(session, JobRow, [old], LOCK_TIME) == set()
        assert await renew_locks(session, JobRow, [new], LOCK_TIME) == {new.id}
    async with locked_row(sessions, old) as (_, row):
        assert row is None
    async with locked_row(sessions, new) as (_, row):
        assert row is not None
        row.status = "running"
    assert [job.status for job in await claim_due_jobs(sessions, 1)] == ["running"]


@pytest.mark.parametrize("statement", ["SELECT told() FROM jobs", "UPDATE jobs SET seed = 2 RETURNING told()"])
async def test_who_is_cancelled_in_the_middle_of_a_result_leaves_no_lock(tmp_path: Path, statement: str) -> None:
    """SQLite keeps a closed connection, and what it has locked, while a cursor of it has rows left."""
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path / 'test.db'}")
    await migrate(engine)
    sessions = create_sessions(engine)
    await add_jobs(sessions, 2)
    loop = asyncio.get_running_loop()

    def told() -> None:  # in the driver's thread: when the loop hears of the first row it has cancelled the task
        loop.call_soon_threadsafe(reading.cancel)

    async def read() -> None:
        async with sessions.begin() as session:
            driver = (await (await session.connection()).get_raw_connection()).driver_connection
            assert driver is not None
            await driver.create_function("told", 0, told)
            await session.execute(text(statement))

    reading = asyncio.create_task(read())
    with pytest.raises(asyncio.CancelledError):
        await reading  # the task keeps its traceback, and so the cursor
    async with asyncio.timeout(10):
        await add_jobs(sessions, 1)
    await engine.dispose()
