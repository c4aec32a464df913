"""A job's logs through the API and the command line: only its own, as they lie in object storage."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.fixtures.projects import GuardedService, Organization, TunedModel
from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.stored_services import StoredService

HOSTILE_NAMES = [
    "..%2F..%2Fspec.json",
    "..%2f0001-trainer.log",
    "0001-trainer.log%00",
    "0001-trainer.log%0A",
    "0001-..%2F..%2Fattempts%2F1%2Fresult.json",
    "0002-trainer.log",
    "1-trainer.log",
    "0001-.log",
    "0001-trainer.txt",
    "x" * 5000,
    "%F0%9F%99%82",
]


@pytest.fixture(scope="module")
def trained(stored_service: StoredService) -> FineTuningJob:
    service = stored_service.service
    created = service.client.fine_tuning.jobs.create(
        model="fettle-tiny",
        training_file=service.upload(to_jsonl(chat_rows(10))),
        hyperparameters={"n_epochs": 1, "batch_size": 10},
    )
    job = service.wait_for_job(created.id)
    assert job.status == "succeeded", service.describe(job.id)
    return job


@pytest.mark.slow
def test_the_log_of_a_run_is_listed_and_read_after_its_end(
    stored_service: StoredService, trained: FineTuningJob
) -> None:
    logs = f"{stored_service.service.url}/v1/fine_tuning/jobs/{trained.id}/logs"
    listed = httpx.get(logs)
    [log] = listed.json()["data"]
    assert listed.json()["object"] == "list"
    assert {**log, "bytes": 0} == {
        "object": "fine_tuning.job.log",
        "name": "0001-trainer.log",
        "attempt": 1,
        "container": "trainer",
        "bytes": 0,
    }
    read = httpx.get(f"{logs}/{log['name']}")
    assert read.headers["content-type"] == "text/plain; charset=utf-8"
    assert read.headers["x-content-type-options"] == "nosniff"
    assert len(read.content) == log["bytes"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_name_that_is_no_log_of_the_job_is_a_404(
    stored_service: StoredService, trained: FineTuningJob, name: str
) -> None:
    answer = httpx.get(f"{stored_service.service.url}/v1/fine_tuning/jobs/{trained.id}/logs/{name}")
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert len(answer.text) < 500


@pytest.fixture
def tuned(guarded_service: GuardedService, organization: Organization) -> Iterator[TunedModel]:
    """A job with the logs of three containers, and things that are none."""
    tuned = guarded_service.add_tuned_model(organization.project_id, organization.name)
    folder = guarded_service.data_dir / "objects" / "jobs" / tuned.job_id / "logs"
    folder.mkdir(parents=True)
    (folder / "0001-trainer.log").write_bytes(b"first\n")
    (folder / "0002-trainer.log").write_bytes("zweite Größe\n".encode() + b"\xff\xfe\n")
    (folder / "0002-trainer-pod-b.log").write_bytes(b"without an end")
    (folder / "notes.txt").write_bytes(b"no log")
    yield tuned


def logs_command(service: GuardedService, key: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"FETTLE_BASE_URL": f"{service.url}/v1", "FETTLE_API_KEY": key}
    command = [str(Path(sys.executable).parent / "fettle"), "jobs", "logs", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)


def test_the_command_prints_logs_as_they_are(
    guarded_service: GuardedService, organization: Organization, tuned: TunedModel
) -> None:
    key = organization.key(organization.project_id, "reader")
    everything = logs_command(guarded_service, key, tuned.job_id)
    assert everything.stdout == (
        b"==> 0001-trainer.log <==\nfirst\n"
        b"==> 0002-trainer-pod-b.log <==\nwithout an end\n"
        b"==> 0002-trainer.log <==\nzweite Gr\xc3\xb6\xc3\x9fe\n\xff\xfe\n"
    ), everything.stderr
    one = logs_command(guarded_service, key, tuned.job_id, "--attempt", "2", "--container", "trainer-pod-b")
    assert (one.returncode, one.stdout) == (0, b"without an end\n")
    none = logs_command(guarded_service, key, tuned.job_id, "--attempt", "3")
    assert (none.returncode, none.stdout) == (1, b"")
    assert b"has no such log; there are 0001-trainer.log, 0002-trainer-pod-b.log" in none.stderr
    unknown = logs_command(guarded_service, key, "ftjob-abcdefghijklmnopqrstuvwx")
    assert unknown.returncode == 1 and unknown.stderr.count(b"\n") == 1


def test_another_project_sees_no_logs(organization: Organization, tuned: TunedModel) -> None:
    stranger = organization.client_of(organization.new_project())
    for path in ("logs", "logs/0001-trainer.log"):
        with pytest.raises(openai.NotFoundError, match="Could not find fine tune"):
            stranger.get(f"/fine_tuning/jobs/{tuned.job_id}/{path}", cast_to=object)


def test_a_job_without_logs_has_an_empty_list(guarded_service: GuardedService, organization: Organization) -> None:
    tuned = guarded_service.add_tuned_model(organization.project_id, organization.name)
    client = organization.client_of(organization.project_id)
    listed = client.get(f"/fine_tuning/jobs/{tuned.job_id}/logs", cast_to=object)
    assert listed == {"object": "list", "data": []}
