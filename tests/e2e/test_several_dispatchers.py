"""Two services on one PostgreSQL and one storage: every job exactly once, and the one that lives goes on."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from service.dispatcher.loop import LOCK_TIME
from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import RunningService, StartService, new_database, wait_until

pytestmark = pytest.mark.slow

JOB_SECONDS = 240 + LOCK_TIME.total_seconds()


@pytest.fixture
def pair(start_service: StartService, tmp_path: Path) -> tuple[RunningService, RunningService]:
    """Each has a data folder; their trainers are in one place, as on a cluster, so that both see all of them."""
    (tmp_path / "executions").mkdir()
    settings = {
        "serving": "off",
        "database_url": new_database(),
        "storage_uri": (tmp_path / "objects").as_uri(),
        "max_running_jobs": "2",
        "poll_interval": "0.3",
    }
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "executions").symlink_to(tmp_path / "executions")
    return start_service(tmp_path / "one", **settings), start_service(tmp_path / "two", **settings)


def create_job(service: RunningService, file: str) -> str:
    created = service.client.fine_tuning.jobs.create(
        model="fettle-tiny", training_file=file, hyperparameters={"n_epochs": 1, "batch_size": 4}
    )
    return created.id


def assert_done_once(service: RunningService, job_id: str, executions: Path) -> None:
    job = service.wait_for_job(job_id, timeout=JOB_SECONDS)
    assert job.status == "succeeded", service.describe(job_id)
    messages = [event.message for event in service.events(job_id)]
    for once in ("Files validated, moving job to queued state", "Fine-tuning job started", "The job has successfully"):
        assert len([message for message in messages if message.startswith(once)]) == 1, messages
    steps = [event.data["step"] for event in service.events(job_id) if event.type == "metrics"]
    assert steps == list(range(1, len(steps) + 1)), "each step is told once, in order"
    assert [folder.name for folder in executions.glob(f"{job_id}-*")] == [f"{job_id}-1"], "one attempt"
    assert len(job.result_files) == 1
    models = [model.id for model in service.client.models.list() if model.id == job.fine_tuned_model]
    assert len(models) == 1


def test_every_job_is_done_exactly_once(pair: tuple[RunningService, RunningService], tmp_path: Path) -> None:
    one, two = pair
    file = one.upload(to_jsonl(chat_rows(12)))
    jobs = [create_job(service, file) for service in (one, two, one, two)]
    most = 0

    def all_have_ended() -> bool:
        nonlocal most
        statuses = [two.client.fine_tuning.jobs.retrieve(job).status for job in jobs]
        most = max(most, statuses.count("running"))
        return set(statuses) <= {"succeeded", "failed", "cancelled"}

    wait_until(all_have_ended, JOB_SECONDS, "the jobs did not end", lambda: two.describe(jobs[0]))
    for job in jobs:
        assert_done_once(one, job, tmp_path / "executions")
    assert 1 <= most <= 2, "max_running_jobs is of both together"


def test_a_service_that_is_killed_loses_no_job(pair: tuple[RunningService, RunningService], tmp_path: Path) -> None:
    one, two = pair
    file = one.upload(to_jsonl(chat_rows(12)))
    running = create_job(one, file)
    one.wait_for_job(running, "running", timeout=JOB_SECONDS)
    fresh = [create_job(one, file) for _ in range(2)]
    one.kill()  # it had just claimed them, and its locks are left behind
    for job in (running, *fresh):
        assert_done_once(two, job, tmp_path / "executions")


def test_a_job_that_one_service_cancels_is_stopped_by_either(
    pair: tuple[RunningService, RunningService], tmp_path: Path
) -> None:
    one, two = pair
    file = one.upload(to_jsonl(chat_rows(200)))
    job = create_job(one, file)
    one.wait_for_job(job, "running", timeout=JOB_SECONDS)
    two.client.fine_tuning.jobs.cancel(job)

    def is_stopped() -> bool:
        return all((folder / "exit_code").exists() for folder in (tmp_path / "executions").glob("*"))

    wait_until(is_stopped, JOB_SECONDS, "the trainer runs on")
    answer: Any = httpx.get(f"{one.url}/v1/fine_tuning/jobs/{job}").json()
    assert answer["status"] == "cancelled"
