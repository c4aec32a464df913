"""Pausing and resuming from every state of a job, and that nothing of its training is lost or done twice."""

import csv
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from service.processes import DetachedProcess
from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import RunningService, StartService, keep_running, wait_until
from tuning.contract import JobResult

TRAINING_SECONDS = 180
STEPS = 190  # so many that a test can come in between, and under 200, so that each is told
PAUSED_MESSAGE = "Fine-tuning job paused after the step it was at"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    yield from keep_running(RunningService(tmp_path_factory.mktemp("pause") / "data", serving="off"))


def create(service: RunningService, *, n_epochs: int = 1) -> str:
    job = service.client.fine_tuning.jobs.create(
        model="fettle-tiny",
        training_file=service.upload(to_jsonl(chat_rows(STEPS))),
        hyperparameters={"n_epochs": n_epochs, "batch_size": 1},
        seed=7,
    )
    return job.id


def pause(service: RunningService, job_id: str) -> FineTuningJob:
    return service.client.fine_tuning.jobs.pause(job_id)


def resume(service: RunningService, job_id: str) -> FineTuningJob:
    return service.client.fine_tuning.jobs.resume(job_id)


def is_paused(job: FineTuningJob) -> bool:
    assert job.model_extra is not None
    return bool(job.model_extra["paused"])


def messages(service: RunningService, job_id: str) -> list[str]:
    return [event.message for event in service.events(job_id) if event.type == "message"]


def steps(service: RunningService, job_id: str) -> list[int]:
    return [event.data["step"] for event in service.events(job_id) if event.type == "metrics"]


def wait_for_steps(service: RunningService, job_id: str, count: int) -> None:
    wait_until(
        lambda: len(steps(service, job_id)) >= count,
        TRAINING_SECONDS,
        f"{count} steps were not told",
        tell=lambda: service.describe(job_id),
    )


def wait_until_stopped(service: RunningService, job_id: str) -> None:
    wait_until(
        lambda: "Once resumed" in messages(service, job_id)[-1],
        TRAINING_SECONDS,
        "the job was not stopped",
        tell=lambda: service.describe(job_id),
    )


def trainers_of(service: RunningService, job_id: str) -> list[str]:
    return sorted(path.name for path in (service.data_dir / "executions").glob(f"{job_id}-*"))


def signal_trainer(service: RunningService, job_id: str, number: signal.Signals) -> None:
    group = int((service.data_dir / "executions" / f"{job_id}-1" / "pid").read_text())
    os.killpg(group, number)


def attempts_of(service: RunningService, job_id: str) -> list[Path]:
    return sorted((service.data_dir / "objects" / "jobs" / job_id / "attempts").iterdir())


def adapter_of(service: RunningService, job_id: str) -> str | None:
    result = attempts_of(service, job_id)[-1] / "result.json"
    return JobResult.model_validate_json(result.read_bytes()).adapter_sha256


def wait_until_states_are_gone(service: RunningService, job_id: str) -> None:
    states = [attempt / "state" for attempt in attempts_of(service, job_id)]
    wait_until(lambda: not any(state.exists() for state in states), 30, "a state stayed behind")


@pytest.fixture(scope="module")
def uninterrupted(service: RunningService) -> str:
    job_id = create(service)
    assert service.wait_for_job(job_id, timeout=TRAINING_SECONDS).status == "succeeded", service.describe(job_id)
    return job_id


@pytest.fixture(scope="module")
def paused(service: RunningService, uninterrupted: str) -> str:
    """Past its first step."""
    job_id = create(service)
    wait_for_steps(service, job_id, 2)
    job = pause(service, job_id)
    assert (job.status, is_paused(job), job.estimated_finish) == ("queued", True, None)
    wait_until_stopped(service, job_id)
    return job_id


def test_a_paused_job_says_queued_and_leaves_a_checkpoint_that_is_a_model(service: RunningService, paused: str) -> None:
    job = service.client.fine_tuning.jobs.retrieve(paused)
    assert (job.status, is_paused(job), job.error, job.finished_at) == ("queued", True, None, None)
    [checkpoint] = service.client.fine_tuning.jobs.checkpoints.list(paused).data
    last_step = steps(service, paused)[-1]
    assert 2 <= last_step < STEPS
    assert (checkpoint.step_number, checkpoint.metrics.step) == (last_step, last_step)
    name = f"ft:fettle-tiny:fettle::{paused[-8:]}:ckpt-step-{last_step}"
    assert checkpoint.fine_tuned_model_checkpoint == name
    assert service.client.models.retrieve(name).id == name
    assert messages(service, paused)[-3:] == [
        "Fine-tuning job paused: it stops after the step at hand",
        f"Checkpoint created at step {last_step} with Snapshot ID: {name}",
        f"{PAUSED_MESSAGE}. Once resumed, it goes on from there.",
    ]


def test_a_paused_job_is_not_paused_again(service: RunningService, paused: str) -> None:
    with pytest.raises(openai.BadRequestError, match="paused already") as error:
        pause(service, paused)
    assert error.value.code == "job_not_pausable"


def test_a_paused_job_lets_others_go_before_it(service: RunningService, paused: str) -> None:
    other = create(service)
    service.wait_for_job(other, "running", timeout=TRAINING_SECONDS)
    service.client.fine_tuning.jobs.cancel(other)
    assert is_paused(service.client.fine_tuning.jobs.retrieve(paused))


def test_a_resumed_job_ends_as_if_it_had_never_been_paused(
    service: RunningService, paused: str, uninterrupted: str
) -> None:
    first_part = steps(service, paused)
    job = resume(service, paused)
    assert (job.status, is_paused(job)) == ("queued", False)
    wait_for_steps(service, paused, len(first_part) + 1)
    running = service.client.fine_tuning.jobs.retrieve(paused)
    if running.status == "running":
        assert running.estimated_finish is not None
    job = service.wait_for_job(paused, timeout=TRAINING_SECONDS)
    assert job.status == "succeeded", service.describe(paused)
    assert (is_paused(job), job.estimated_finish) == (False, None)
    assert trainers_of(service, paused) == [f"{paused}-1", f"{paused}-2"]
    assert steps(service, paused) == list(range(1, STEPS + 1))
    assert f"Training goes on after step {first_part[-1]} of {STEPS}" in messages(service, paused)
    assert len(messages(service, paused)) == len(set(messages(service, paused)))

    whole = service.client.fine_tuning.jobs.retrieve(uninterrupted)
    assert adapter_of(service, paused) == adapter_of(service, uninterrupted)
    assert job.trained_tokens == whole.trained_tokens
    contents = [service.client.files.content(each.result_files[0]).text for each in (job, whole)]
    assert contents[0] == contents[1]
    assert [int(row["step"]) for row in csv.DictReader(io.StringIO(contents[0]))] == list(range(1, STEPS + 1))
    wait_until_states_are_gone(service, paused)


@pytest.mark.parametrize("call", ["pause", "resume"])
def test_an_ended_job_is_neither_paused_nor_resumed(service: RunningService, uninterrupted: str, call: str) -> None:
    before = service.client.fine_tuning.jobs.retrieve(uninterrupted)
    with pytest.raises(openai.BadRequestError, match="succeeded") as error:
        getattr(service.client.fine_tuning.jobs, call)(uninterrupted)
    assert error.value.code == {"pause": "job_not_pausable", "resume": "job_not_resumable"}[call]
    assert service.client.fine_tuning.jobs.retrieve(uninterrupted) == before


@pytest.mark.parametrize("job_id", ["ftjob-" + "a" * 24, "ftjob-1", "%2e%2e", "x" * 300])
@pytest.mark.parametrize("call", ["pause", "resume"])
def test_a_job_that_does_not_exist_is_not_found(service: RunningService, job_id: str, call: str) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        getattr(service.client.fine_tuning.jobs, call)(job_id)
    assert error.value.code == "fine_tuning_job_not_found"


def test_a_running_job_is_not_resumed(service: RunningService) -> None:
    job_id = create(service)
    service.wait_for_job(job_id, "running", timeout=TRAINING_SECONDS)
    with pytest.raises(openai.BadRequestError, match="running and not paused") as error:
        resume(service, job_id)
    assert error.value.code == "job_not_resumable"
    service.client.fine_tuning.jobs.cancel(job_id)


def test_a_job_that_waits_is_held_and_starts_once_resumed(service: RunningService) -> None:
    running = create(service, n_epochs=50)
    service.wait_for_job(running, "running", timeout=TRAINING_SECONDS)
    waiting = create(service)
    service.wait_for_job(waiting, "queued")
    assert is_paused(pause(service, waiting))
    service.client.fine_tuning.jobs.cancel(running)
    third = create(service)  # it would wait behind the second if that were not held
    service.wait_for_job(third, "running", timeout=TRAINING_SECONDS)
    service.client.fine_tuning.jobs.cancel(third)
    assert trainers_of(service, waiting) == []
    resume(service, waiting)
    service.wait_for_job(waiting, "running", timeout=TRAINING_SECONDS)
    service.client.fine_tuning.jobs.cancel(waiting)


def test_a_job_is_paused_while_its_files_are_checked(service: RunningService) -> None:
    job_id = create(service)
    job = pause(service, job_id)
    assert job.status in ("validating_files", "queued") and is_paused(job)
    service.wait_for_job(job_id, "queued")
    resume(service, job_id)
    pause(service, job_id)
    assert service.wait_for_job(job_id, until=is_paused).status == "queued"
    resume(service, job_id)
    service.wait_for_job(job_id, "running", timeout=TRAINING_SECONDS)
    service.client.fine_tuning.jobs.cancel(job_id)


def test_a_job_paused_before_its_first_step_starts_with_it_later(service: RunningService) -> None:
    job_id = create(service)
    service.wait_for_job(job_id, "running", timeout=TRAINING_SECONDS)  # its trainer is still importing torch
    pause(service, job_id)
    wait_until_stopped(service, job_id)
    assert messages(service, job_id)[-1] == (
        "Fine-tuning job paused before a step could be saved. Once resumed, it starts with the first step."
    )
    assert service.client.fine_tuning.jobs.checkpoints.list(job_id).data == []
    resume(service, job_id)
    wait_for_steps(service, job_id, 1)
    assert steps(service, job_id)[0] == 1
    service.client.fine_tuning.jobs.cancel(job_id)


def test_a_job_resumed_while_it_stops_goes_on(service: RunningService) -> None:
    job_id = create(service)
    wait_for_steps(service, job_id, 2)
    pause(service, job_id)
    resume(service, job_id)
    assert service.wait_for_job(job_id, timeout=TRAINING_SECONDS).status == "succeeded", service.describe(job_id)
    assert steps(service, job_id) == list(range(1, STEPS + 1))


def test_a_paused_job_is_cancelled(service: RunningService) -> None:
    job_id = create(service)
    wait_for_steps(service, job_id, 2)
    pause(service, job_id)
    wait_until_stopped(service, job_id)
    job = service.client.fine_tuning.jobs.cancel(job_id)
    assert (job.status, is_paused(job)) == ("cancelled", False)
    for call in (pause, resume):
        with pytest.raises(openai.BadRequestError, match="cancelled"):
            call(service, job_id)
    wait_until_states_are_gone(service, job_id)


def test_a_stopping_job_is_cancelled(service: RunningService) -> None:
    job_id = create(service)
    wait_for_steps(service, job_id, 1)
    pause(service, job_id)
    assert service.client.fine_tuning.jobs.cancel(job_id).status == "cancelled"
    trainer = DetachedProcess(service.data_dir / "executions" / f"{job_id}-1")
    wait_until(lambda: not trainer.is_alive(), 30, "the trainer lives on")
    assert service.client.fine_tuning.jobs.retrieve(job_id).status == "cancelled"


@pytest.mark.parametrize("moment", ["while_it_stops", "once_it_has_stopped"])
def test_a_service_that_is_killed_during_a_pause_ends_it_right(
    own_service: RunningService, uninterrupted: str, service: RunningService, moment: str
) -> None:
    job_id = create(own_service)
    wait_for_steps(own_service, job_id, 2)
    if moment == "while_it_stops":
        signal_trainer(own_service, job_id, signal.SIGSTOP)  # or it would be done before the service is back
        pause(own_service, job_id)
        own_service.restart()
        signal_trainer(own_service, job_id, signal.SIGCONT)
    else:
        pause(own_service, job_id)
        trainer = DetachedProcess(own_service.data_dir / "executions" / f"{job_id}-1")
        wait_until(lambda: not trainer.is_alive(), 60, "the trainer lives on")
        own_service.restart()
    wait_until_stopped(own_service, job_id)
    resume(own_service, job_id)
    own_service.restart()
    job = own_service.wait_for_job(job_id, timeout=TRAINING_SECONDS)
    assert job.status == "succeeded", own_service.describe(job_id)
    assert steps(own_service, job_id) == list(range(1, STEPS + 1))
    assert len(messages(own_service, job_id)) == len(set(messages(own_service, job_id)))
    assert adapter_of(own_service, job_id) == adapter_of(service, uninterrupted)


def test_a_trainer_that_is_stopped_by_others_goes_on_from_its_state(
    service: RunningService, uninterrupted: str
) -> None:
    job_id = create(service)
    wait_for_steps(service, job_id, 2)
    DetachedProcess(service.data_dir / "executions" / f"{job_id}-1").interrupt()  # as before a machine is taken away
    job = service.wait_for_job(job_id, timeout=TRAINING_SECONDS)
    assert job.status == "succeeded", service.describe(job_id)
    assert steps(service, job_id) == list(range(1, STEPS + 1))
    assert trainers_of(service, job_id) == [f"{job_id}-1", f"{job_id}-2"]
    [warning] = [event.message for event in service.events(job_id) if event.level == "warn"]
    assert "was stopped before its last step. Going on from its saved state (attempt 2)" in warning
    assert adapter_of(service, job_id) == adapter_of(service, uninterrupted)


def test_a_trainer_that_does_not_stop_is_killed_and_no_step_is_told_twice(
    start_service: StartService, tmp_path: Path
) -> None:
    service = start_service(tmp_path / "data", serving="off", pause_grace="PT1S", cancel_grace="PT1S")
    job_id = create(service)
    wait_for_steps(service, job_id, 2)
    signal_trainer(service, job_id, signal.SIGSTOP)
    pause(service, job_id)
    wait_until_stopped(service, job_id)
    assert "before a step could be saved" in messages(service, job_id)[-1]
    resume(service, job_id)
    assert service.wait_for_job(job_id, timeout=TRAINING_SECONDS).status == "succeeded", service.describe(job_id)
    assert steps(service, job_id) == list(range(1, STEPS + 1))
    assert service.client.fine_tuning.jobs.retrieve(job_id).result_files != []


def test_the_setting_makes_a_paused_job_say_paused(start_service: StartService, tmp_path: Path) -> None:
    service = start_service(tmp_path / "data", serving="off", paused_status="paused")
    job_id = create(service)
    assert is_paused(pause(service, job_id))
    assert service.wait_for_job(job_id, "paused").id == job_id
    assert [job.status for job in service.client.fine_tuning.jobs.list()] == ["paused"]
    assert resume(service, job_id).status in ("queued", "running")
