"""`fettle migrate`, and a service that finds a schema which is newer than its own: a rolling upgrade goes through."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.fixtures.service import RunningService, StartService, free_port, new_database


def migrate(tmp_path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {f"FETTLE_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "service.cli", "migrate", "--data-dir", str(tmp_path / "data")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest) -> dict[str, str]:
    return {} if request.param == "sqlite" else {"database_url": new_database()}


def test_it_says_from_where_to_where(settings: dict[str, str], tmp_path: Path) -> None:
    first, second = migrate(tmp_path, **settings), migrate(tmp_path, **settings)
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stdout.startswith("fettle: the schema went from nothing to 0")
    assert second.stdout.endswith("nothing to do\n")


async def test_of_several_at_once_one_migrates_and_the_others_wait(tmp_path: Path) -> None:
    url = new_database()
    finished = await asyncio.gather(
        *(asyncio.to_thread(migrate, tmp_path / str(number), database_url=url) for number in range(4))
    )
    assert [each.returncode for each in finished] == [0] * 4
    said = sorted("went from nothing" in each.stdout for each in finished)
    assert said == [False, False, False, True]


def test_a_database_that_does_not_answer_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://fettle:password-Aa1@127.0.0.1:{free_port()}/none"
    finished = migrate(tmp_path, database_url=url)
    assert finished.returncode == 1
    assert "could not be migrated" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert "password-Aa1" not in finished.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"database_url": "no-such://x"}, "database_url"), ({"log_format": "xml"}, "log_format")],
)
def test_settings_that_cannot_be_used_are_exit_code_2(settings: dict[str, str], words: str, tmp_path: Path) -> None:
    finished = migrate(tmp_path, **settings)
    assert finished.returncode == 2
    assert words in finished.stderr
    assert "Traceback" not in finished.stderr


def test_sqlite_is_not_migrated_under_a_running_service(own_service: RunningService, tmp_path: Path) -> None:
    finished = migrate(tmp_path)  # the same data folder
    assert finished.returncode == 2
    assert "in use by another fettle" in finished.stderr


@pytest.mark.parametrize("how", ["at_start", "checked"])
def test_a_service_that_finds_a_newer_schema_goes_on(
    start_service: StartService, settings: dict[str, str], tmp_path: Path, how: str
) -> None:
    """As pods of the old version do that are started again while the new version is rolled out."""
    service = start_service(tmp_path / "data", serving="off", **settings)
    service.stop()
    engine = create_engine(service.database_url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(text("ALTER TABLE jobs ADD COLUMN of_tomorrow VARCHAR"))
    again = start_service(tmp_path / "data", serving="off", migrations=how, **settings)
    assert httpx.get(f"{again.url}/readyz").status_code == 200
    file_id = again.upload(b'{"messages": 1}\n' * 10)
    job = again.client.fine_tuning.jobs.create(model="fettle-tiny", training_file=file_id)
    again.wait_for_job(job.id, "failed")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
    again.stop()
    assert migrate(tmp_path, **settings).stdout == "fettle: the schema is at 9999; nothing to do\n"
