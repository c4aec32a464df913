"""The API and the dispatcher as processes of their own on PostgreSQL and a shared storage; what each role refuses."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.fixtures.service import RunningService, StartService, free_port, new_database, wait_until

BAD_ROW = b'{"messages": "none"}\n' * 10


@pytest.fixture
def shared(tmp_path: Path) -> dict[str, str]:
    """Settings of processes that work together."""
    storage = (tmp_path / "storage").as_uri()
    return {"database_url": new_database(), "storage_uri": storage, "serving": "off"}


def create_job(service: RunningService) -> str:
    file_id = service.upload(BAD_ROW)
    return service.client.fine_tuning.jobs.create(model="fettle-tiny", training_file=file_id).id


def refusal(tmp_path: Path, *arguments: str, **settings: str) -> str:
    """What `fettle serve` says when it does not even start."""
    environment = os.environ | {f"FETTLE_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "service.cli", "serve", "--data-dir", str(tmp_path / "refused"), *arguments]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 2, finished.stderr
    assert "Traceback" not in finished.stderr
    return finished.stderr


def test_a_job_that_the_api_took_is_seen_through_by_a_dispatcher_that_starts_later(
    start_service: StartService, shared: dict[str, str], tmp_path: Path
) -> None:
    api = start_service(tmp_path / "api", role="api", **shared)
    job_id = create_job(api)
    assert api.client.fine_tuning.jobs.retrieve(job_id).status == "validating_files"
    start_service(tmp_path / "dispatcher", role="dispatcher", **shared)
    job = api.wait_for_job(job_id, "failed")
    assert job.error is not None
    assert job.error.code == "invalid_training_file"


def test_a_dispatcher_answers_probes_and_metrics_and_no_api(
    start_service: StartService, shared: dict[str, str], tmp_path: Path
) -> None:
    dispatcher = start_service(tmp_path / "dispatcher", role="dispatcher", **shared)
    assert httpx.get(f"{dispatcher.url}/livez").json() == {"status": "ok"}
    parts = {"database": "ok", "storage": "ok"}
    assert httpx.get(f"{dispatcher.url}/readyz").json() == {"status": "ready", "parts": parts}
    assert "fettle_build_info" in httpx.get(f"{dispatcher.url}/metrics").text
    for path in ("/v1/models", "/health", "/docs", "/openapi.json"):
        assert httpx.get(f"{dispatcher.url}{path}").status_code == 404


def test_the_api_needs_no_cluster(start_service: StartService, shared: dict[str, str], tmp_path: Path) -> None:
    """Nor the file that says what training pods are made of."""
    cluster = {"executor": "kubernetes", "kubernetes_file": str(tmp_path / "nowhere.yaml")}
    api = start_service(tmp_path / "api", role="api", **shared, **cluster)
    assert httpx.get(f"{api.url}/readyz").json()["parts"].keys() == {"database", "storage"}


def test_two_dispatchers_see_every_job_through_once(
    start_service: StartService, shared: dict[str, str], tmp_path: Path
) -> None:
    api = start_service(tmp_path / "api", role="api", **shared)
    file_id = api.upload(BAD_ROW)
    dispatchers = [start_service(tmp_path / name, role="dispatcher", **shared) for name in ("one", "two")]
    jobs = api.client.fine_tuning.jobs
    ids = [jobs.create(model="fettle-tiny", training_file=file_id).id for _ in range(12)]
    for job_id in ids:
        api.wait_for_job(job_id, "failed")
        assert len([event for event in api.events(job_id) if event.level == "error"]) == 1

    def ended() -> list[float]:
        return [
            samples(each.url).get('fettle_jobs_ended_total{code="invalid_training_file",status="failed"}', 0)
            for each in dispatchers
        ]

    wait_until(lambda: sum(ended()) == len(ids), 30, f"not every job was ended once: {ended()}")


def samples(url: str) -> dict[str, float]:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def test_a_dispatcher_that_is_told_to_stop_gives_its_jobs_back_at_once(
    start_service: StartService, shared: dict[str, str], tmp_path: Path
) -> None:
    """Not after the half minute in which a lock of one that was killed runs out."""
    api = start_service(tmp_path / "api", role="api", **shared)
    dispatcher = start_service(tmp_path / "dispatcher", role="dispatcher", **shared)
    # a file of this size is being checked for some seconds
    file_id = api.upload(
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' * 200_000
    )
    job_id = api.client.fine_tuning.jobs.create(model="fettle-tiny", training_file=file_id).id
    engine = create_engine(shared["database_url"], poolclass=NullPool)

    def locked() -> bool:
        with engine.connect() as connection:
            query = text("SELECT lock_token FROM jobs WHERE id = :id")
            return connection.scalar(query, {"id": job_id}) is not None

    wait_until(locked, 30, "the dispatcher did not begin")
    dispatcher.stop()
    assert not locked()
    assert api.client.fine_tuning.jobs.retrieve(job_id).status == "validating_files"


def test_a_service_that_is_told_to_stop_is_not_ready_at_once_and_finishes_what_it_answers(
    start_service: StartService, tmp_path: Path
) -> None:
    ops_port = free_port()
    service = start_service(tmp_path / "data", serving="off", ops_port=str(ops_port), stop_grace="60")
    probe = f"http://127.0.0.1:{ops_port}/readyz"
    assert httpx.get(probe).status_code == 200

    boundary, seen = "fettle", []

    def body():  # type: ignore[no-untyped-def]
        yield (
            f'--{boundary}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--{boundary}\r\n'
            'content-disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n'
        ).encode()
        yield BAD_ROW
        os.kill(service.pid, signal.SIGTERM)

        def told() -> bool:
            seen.append(httpx.get(probe))
            return seen[-1].status_code == 503

        wait_until(told, 10, "it says that it is ready")
        yield BAD_ROW + f"\r\n--{boundary}--\r\n".encode()

    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    uploaded = httpx.post(f"{service.url}/v1/files", content=body(), headers=headers, timeout=60)
    assert uploaded.status_code == 200
    assert uploaded.json()["bytes"] == 2 * len(BAD_ROW)
    assert seen[-1].json()["status"] == "stopping"
    service.stop()
    assert service.exit_code == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"role": "dispatcher"}, "FETTLE_OPS_PORT"),
        ({"role": "dispatcher", "ops_port": "0"}, "FETTLE_DATABASE_URL"),
        ({"role": "api"}, "FETTLE_DATABASE_URL"),
        ({"role": "api", "database_url": "postgresql+psycopg://nowhere/x"}, "FETTLE_STORAGE_URI"),
        (
            {"role": "api", "database_url": "postgresql+psycopg://nowhere/x", "storage_uri": "s3://bucket"},
            "FETTLE_SERVING",
        ),
        ({"role": "both"}, "role"),
    ],
)
def test_a_role_says_what_it_lacks(settings: dict[str, str], words: str, tmp_path: Path) -> None:
    assert words in refusal(tmp_path, **settings)


def test_a_dispatcher_refuses_the_options_of_the_api(shared: dict[str, str], tmp_path: Path) -> None:
    assert "--port" in refusal(tmp_path, "--port", "8000", role="dispatcher", ops_port="0", **shared)


def test_an_api_that_others_can_reach_needs_keys_and_a_dispatcher_has_no_use_for_them(
    start_service: StartService, shared: dict[str, str], tmp_path: Path
) -> None:
    assert "FETTLE_API_KEYS" in refusal(tmp_path, role="api", host="0.0.0.0", **shared)
    dispatcher = start_service(tmp_path / "dispatcher", role="dispatcher", host="0.0.0.0", **shared)
    assert "FETTLE_HOST mean nothing here" in dispatcher.log


def test_a_port_that_is_taken_is_a_clear_refusal(start_service: StartService, tmp_path: Path) -> None:
    taken = start_service(tmp_path / "data", serving="off")
    assert "Choose another FETTLE_OPS_PORT" in refusal(tmp_path, "--port", "0", serving="off", ops_port=str(taken.port))
