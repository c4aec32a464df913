"""The numbers that a scrape asks the database for, on both databases, and a database that does not answer."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from service.database.engine import create_engine, create_sessions, migrate
from service.database.tables import JobRow
from service.operations.backlog import Backlog
from service.operations.metrics import Metrics
from tests.fixtures.databases import job_row
from tests.fixtures.service import free_port, new_database


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'test.db'}" if request.param == "sqlite" else new_database()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    await migrate(engine)
    yield engine
    await engine.dispose()


def job(status: str, due_at: float | None, lock_expires_at: float | None = None) -> JobRow:
    return job_row(
        status=status,
        due_at=due_at,
        lock_token=None if lock_expires_at is None else "somebody",
        lock_expires_at=lock_expires_at,
    )


async def test_jobs_are_counted_by_status_and_the_oldest_work_that_nobody_has_is_found(
    engine: AsyncEngine, database_url: str
) -> None:
    now = time.time()
    async with create_sessions(engine).begin() as session:
        session.add_all(
            [
                job("running", due_at=now - 5000, lock_expires_at=now + 30),  # somebody works on it
                job("running", due_at=now - 100),
                job("queued", due_at=now + 1000),
                job("failed", due_at=None),
            ]
        )
    metrics, reader = Metrics("all"), create_engine(database_url, 1, only_reads=True)
    async with create_sessions(engine).begin() as session:  # a writer does not keep a scrape waiting
        session.add(job("queued", due_at=None))
        await session.flush()
        await Backlog(reader, metrics).refresh()
    await reader.dispose()
    counts = {
        status: metrics.registry.get_sample_value("fettle_jobs", {"status": status})
        for status in ("validating_files", "queued", "running", "succeeded", "failed", "cancelled")
    }
    expected = {"validating_files": 0, "queued": 1, "running": 2, "succeeded": 0, "failed": 1, "cancelled": 0}
    assert counts == expected
    lateness = metrics.registry.get_sample_value("fettle_due_lateness_seconds", {"work": "jobs"})
    assert lateness == pytest.approx(100, abs=20)
    assert metrics.registry.get_sample_value("fettle_due_lateness_seconds", {"work": "batches"}) == 0


async def test_a_database_that_is_away_leaves_the_numbers_out() -> None:
    metrics = Metrics("all")
    metrics.jobs.labels("queued").set(7)  # of an earlier scrape
    engine = create_engine(f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none", 1, only_reads=True)
    await Backlog(engine, metrics).refresh()
    await engine.dispose()
    assert metrics.registry.get_sample_value("fettle_jobs", {"status": "queued"}) is None
    assert metrics.registry.get_sample_value("fettle_scrape_errors_total") == 1
    assert b"fettle_scrape_errors_total 1.0" in metrics.render()
