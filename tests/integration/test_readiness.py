"""`/livez` and `/readyz`: what is away is named in plain words, and a part that hangs does not make a probe hang."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import httpx
import pytest

from tests.fixtures.environment import require_environment
from tests.fixtures.firewall import Firewall
from tests.fixtures.object_storage import S3Bucket, new_bucket
from tests.fixtures.service import RunningService, StartService, free_port, new_database, wait_until

PROBE_SECONDS = 5
"""What a probe may take at the very most; a kubelet's own limit is often less, and then the answer is no."""


def readyz(service: RunningService) -> tuple[int, dict[str, Any]]:
    started = time.monotonic()
    answer = httpx.get(f"{service.url}/readyz", timeout=30)
    assert time.monotonic() - started < PROBE_SECONDS
    return answer.status_code, answer.json()


def wait_for(service: RunningService, status: int) -> dict[str, str]:
    """The parts, once it answers so."""
    wait_until(
        lambda: readyz(service)[0] == status, 60, f"/readyz did not become {status}", lambda: service.log[-2000:]
    )
    parts: dict[str, str] = readyz(service)[1]["parts"]
    return parts


def through(url: str, firewall: Firewall) -> str:
    parts = urlsplit(url)
    user = f"{parts.username}@" if parts.username else ""
    return urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{firewall.port}"))


@pytest.fixture
def before_database() -> Iterator[Firewall]:
    firewall = Firewall(require_environment("FETTLE_TEST_DATABASE_URL", "a real PostgreSQL"))
    yield firewall
    firewall.stop()


@pytest.fixture
def before_storage() -> Iterator[Firewall]:
    firewall = Firewall(require_environment("FETTLE_TEST_S3_ENDPOINT", "a real S3 server"))
    yield firewall
    firewall.stop()


@pytest.fixture
def bucket() -> Iterator[S3Bucket]:
    yield from new_bucket()


def test_an_embedded_service_is_ready(own_service: RunningService) -> None:
    assert httpx.get(f"{own_service.url}/livez").json() == {"status": "ok"}
    assert readyz(own_service) == (200, {"status": "ready", "parts": {"database": "ok", "storage": "ok"}})


def test_a_storage_folder_that_is_gone_makes_it_unready_until_it_is_back(own_service: RunningService) -> None:
    assert readyz(own_service)[0] == 200
    folder = own_service.data_dir / "objects"
    folder.rename(folder.with_name("away"))
    assert wait_for(own_service, 503) == {
        "database": "ok",
        "storage": "cannot be used at the moment; the log says why",
    }
    assert httpx.get(f"{own_service.url}/livez").status_code == 200
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_name("away").rename(folder)
    assert wait_for(own_service, 200)["storage"] == "ok"


def test_a_database_that_swallows_everything_does_not_make_probes_hang(
    start_service: StartService, tmp_path: Path, before_database: Firewall
) -> None:
    service = start_service(tmp_path / "data", serving="off", database_url=through(new_database(), before_database))
    assert readyz(service)[0] == 200
    before_database.swallow()
    parts = wait_for(service, 503)
    assert parts == {"database": "did not answer within 3 seconds", "storage": "ok"}
    for _ in range(5):  # the first ones that asked are still waiting: nobody else waits longer for that
        assert readyz(service)[0] == 503
        assert httpx.get(f"{service.url}/livez", timeout=2).status_code == 200
    before_database.restore()
    assert wait_for(service, 200)["database"] == "ok"


def test_a_storage_that_swallows_everything_does_not_make_probes_hang(
    start_service: StartService, tmp_path: Path, before_storage: Firewall, bucket: S3Bucket
) -> None:
    settings = bucket.settings | {"serving": "off", "s3_endpoint_url": before_storage.url}
    service = start_service(tmp_path / "data", **settings)
    assert wait_for(service, 200)["storage"] == "ok"
    before_storage.swallow()
    assert wait_for(service, 503) == {"database": "ok", "storage": "did not answer within 3 seconds"}
    before_storage.restore()
    assert wait_for(service, 200)["storage"] == "ok"


def test_a_database_that_refuses_is_told_without_its_address_or_password(
    start_service: StartService, tmp_path: Path, before_database: Firewall
) -> None:
    secret = f"secret-{uuid4().hex}"
    url = through(new_database(), before_database).replace("@", f":{secret}@")
    service = start_service(tmp_path / "data", serving="off", database_url=url)
    assert readyz(service)[0] == 200
    before_database.stop()
    assert wait_for(service, 503)["database"] == "cannot be used at the moment; the log says why"
    shown = httpx.get(f"{service.url}/readyz").text
    assert str(before_database.port) not in shown
    assert "not ready: database" in service.log
    assert secret not in service.log + shown


def test_probes_ask_the_database_once_in_a_while(start_service: StartService, tmp_path: Path) -> None:
    service = start_service(tmp_path / "data", serving="off")
    assert readyz(service)[0] == 200  # the first one opens the connection
    started = time.monotonic()
    with httpx.Client(base_url=service.url) as client:
        assert all(client.get("/readyz").status_code == 200 for _ in range(200))
    assert time.monotonic() - started < 10


def test_a_start_that_waits_for_the_schema_lives_and_is_not_ready(start_service: StartService, tmp_path: Path) -> None:
    ops_port = free_port()
    settings = {"serving": "off", "database_url": new_database(), "storage_uri": (tmp_path / "storage").as_uri()}
    waiting = RunningService(tmp_path / "api", role="api", migrations="checked", ops_port=str(ops_port), **settings)
    try:
        waiting.launch()
        ops = f"http://127.0.0.1:{ops_port}"
        wait_until(lambda: answers(f"{ops}/livez"), 60, "it does not live", lambda: waiting.log)
        readiness = httpx.get(f"{ops}/readyz")
        assert (readiness.status_code, readiness.json()["status"]) == (503, "starting")
        wait_until(lambda: "`fettle migrate` brings the schema up to date" in waiting.log, 30, "it says nothing")
        start_service(tmp_path / "migrating", **settings)  # its own start migrates
        wait_until(lambda: httpx.get(f"{ops}/readyz").status_code == 200, 60, "it goes on waiting", lambda: waiting.log)
        assert list(waiting.client.files.list()) == []
    finally:
        waiting.clean_up()


def test_a_start_that_waits_for_the_schema_can_be_stopped(tmp_path: Path) -> None:
    settings = {"serving": "off", "database_url": new_database(), "storage_uri": (tmp_path / "storage").as_uri()}
    waiting = RunningService(tmp_path / "data", role="dispatcher", migrations="checked", **settings)
    waiting.launch()
    try:
        wait_until(lambda: answers(f"{waiting.url}/livez"), 60, "it does not live", lambda: waiting.log)
        waiting.stop()
        assert waiting.exit_code == 0
    finally:
        waiting.clean_up()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
