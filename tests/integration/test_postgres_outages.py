"""PostgreSQL goes away, comes back, and has no connection left: 503 with Retry-After meanwhile, and then as before."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
from sqlalchemy.engine import URL, make_url

from tests.fixtures.relay import Relay
from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import RunningService, StartService, new_database, wait_until

CONNECTION_LIMIT = 6


@pytest.fixture
def database() -> URL:
    return make_url(new_database())


@pytest.fixture
def relay(database: URL) -> Iterator[Relay]:
    relay = Relay(database.port or 5432)
    yield relay
    relay.stop()


def through(relay: Relay, database: URL) -> str:
    return database.set(host="127.0.0.1", port=relay.port).render_as_string(hide_password=False)


def connect(database: URL) -> psycopg.Connection:
    url = database.set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(url, autocommit=True)


def ask_at_once(service: RunningService, count: int) -> Counter[int]:
    """How many requests had which status."""
    with (
        httpx.Client(timeout=60, limits=httpx.Limits(max_connections=None)) as client,
        ThreadPoolExecutor(count) as pool,
    ):
        answers = list(pool.map(lambda _: client.get(f"{service.url}/v1/files"), range(count)))
    for answer in answers:
        if answer.status_code == 503:
            assert answer.json()["error"]["code"] == "database_unavailable"
            assert int(answer.headers["retry-after"]) > 0
    return Counter(answer.status_code for answer in answers)


@pytest.mark.slow
def test_requests_get_503_while_it_is_away_and_a_job_goes_on_when_it_is_back(
    start_service: StartService, relay: Relay, database: URL, tmp_path: Path
) -> None:
    service = start_service(tmp_path / "data", serving="off", database_url=through(relay, database))
    job = service.client.fine_tuning.jobs.create(
        model="fettle-tiny",
        training_file=service.upload(to_jsonl(chat_rows(40))),
        hyperparameters={"n_epochs": 2, "batch_size": 1},
    )
    service.wait_for_job(job.id, "running")
    relay.stop()
    for _ in range(3):
        assert ask_at_once(service, 5) == {503: 5}
    relay.start()
    assert ask_at_once(service, 20) == {200: 20}
    assert service.wait_for_job(job.id, timeout=240).status == "succeeded", service.describe(job.id)
    assert len([event for event in service.events(job.id) if event.message == "Fine-tuning job started"]) == 1


def test_connections_that_the_server_ended_are_made_anew(
    start_service: StartService, database: URL, tmp_path: Path
) -> None:
    url = database.render_as_string(hide_password=False)
    service = start_service(tmp_path / "data", serving="off", database_url=url)
    assert ask_at_once(service, 10) == {200: 10}
    with connect(database) as admin:
        for _ in range(5):
            ended = admin.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchone()
            assert ended is not None and ended[0] > 0
            assert ask_at_once(service, 10) == {200: 10}, "a dead connection is found before it is used"


def test_a_service_takes_no_more_connections_than_it_was_given(
    start_service: StartService, database: URL, tmp_path: Path
) -> None:
    url = database.render_as_string(hide_password=False)
    service = start_service(tmp_path / "data", serving="off", database_url=url, database_pool_size="3")
    most = 0
    with connect(database) as admin, ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask_at_once, service, 60)
        while not asking.done():
            row = admin.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchone()
            assert row is not None
            most = max(most, row[0])
    assert asking.result() == {200: 60}
    assert 1 <= most <= 3


@pytest.fixture
def limited(database: URL) -> Iterator[URL]:
    """The database for a user who may have few connections."""
    name = f"limited_{uuid4().hex[:12]}"
    with connect(database) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT {CONNECTION_LIMIT}".encode())
        admin.execute(f'ALTER DATABASE "{database.database}" OWNER TO {name}'.encode())
        admin.execute(f"GRANT ALL ON SCHEMA public TO {name}".encode())
    yield database.set(username=name)
    with connect(database) as admin:
        admin.execute(f'ALTER DATABASE "{database.database}" OWNER TO CURRENT_USER'.encode())
        admin.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}".encode())


def test_a_server_without_free_connections_is_a_503(start_service: StartService, limited: URL, tmp_path: Path) -> None:
    url = limited.render_as_string(hide_password=False)
    service = start_service(tmp_path / "data", serving="off", database_url=url)
    taken: list[psycopg.Connection] = []
    try:
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            while len(taken) < CONNECTION_LIMIT:
                taken.append(connect(limited))
        statuses = ask_at_once(service, 40)
        assert set(statuses) <= {200, 503} and statuses[503] > 0, statuses
    finally:
        for connection in taken:
            connection.close()
    wait_until(lambda: set(ask_at_once(service, CONNECTION_LIMIT - 2)) == {200}, 30, "it did not recover")
    service.stop()
