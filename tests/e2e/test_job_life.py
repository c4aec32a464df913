"""Jobs with the real trainer: how they succeed, and what becomes of them in a bad night."""

import csv
import io
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from service.processes import DetachedProcess
from tests.fixtures.catalogues import catalogue_with_copied_model
from tests.fixtures.environment import missing
from tests.fixtures.rows import chat_row, chat_rows, to_jsonl
from tests.fixtures.service import RunningService, StartService, keep_running, wait_until

GIB = 1 << 30
TRAINING_SECONDS = 180  # a start of the trainer takes ten of them on an idle machine


def create(service: RunningService, rows: int = 16, **options: object) -> str:
    options = {"n_epochs": 2, "batch_size": 4} | options
    job = service.client.fine_tuning.jobs.create(
        model="fettle-tiny",
        training_file=service.upload(to_jsonl(chat_rows(rows))),
        validation_file=service.upload(to_jsonl(chat_rows(5))),
        hyperparameters=options,  # type: ignore[arg-type]
        seed=7,
    )
    return job.id


def create_long(service: RunningService) -> str:
    """One that is still running when a test gets to it."""
    return create(service, rows=400, n_epochs=50, batch_size=1)


def trainer_of(service: RunningService, job_id: str, attempt: int = 1) -> DetachedProcess:
    return DetachedProcess(service.data_dir / "executions" / f"{job_id}-{attempt}")


def kill_trainer(service: RunningService, job_id: str, attempt: int = 1) -> None:
    pid_file = trainer_of(service, job_id, attempt).folder / "pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip() != "", 60, "no trainer was started")
    shell = int(pid_file.read_text())
    children = Path(f"/proc/{shell}/task/{shell}/children")
    wait_until(lambda: children.read_text().strip() != "", 60, "the trainer's shell started nothing")
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)


def has_metrics(service: RunningService, job_id: str) -> bool:
    return any(event.type == "metrics" for event in service.events(job_id))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    yield from keep_running(RunningService(tmp_path_factory.mktemp("e2e") / "data", serving="off"))


@pytest.fixture(scope="module")
def succeeded(own: RunningService) -> FineTuningJob:
    job = own.client.fine_tuning.jobs.create(
        model="fettle-tiny",
        training_file=own.upload(to_jsonl(chat_rows(16))),
        validation_file=own.upload(to_jsonl(chat_rows(21)[16:])),
        hyperparameters={"n_epochs": 3, "batch_size": 4},
        suffix="My Model!",
        seed=7,
        metadata={"team": "tests"},
    )
    ended = own.wait_for_job(job.id, timeout=TRAINING_SECONDS)
    assert ended.status == "succeeded", own.describe(job.id)
    return ended


def test_a_succeeded_job_is_complete(succeeded: FineTuningJob) -> None:
    assert succeeded.error is None
    assert succeeded.fine_tuned_model == f"ft:fettle-tiny:fettle:My-Model:{succeeded.id[-8:]}"
    assert succeeded.trained_tokens is not None
    assert succeeded.trained_tokens > 0
    assert succeeded.trained_tokens % 3 == 0
    assert succeeded.finished_at is not None
    assert succeeded.estimated_finish is None
    assert (succeeded.seed, succeeded.metadata) == (7, {"team": "tests"})
    assert succeeded.organization_id == "org-default"
    assert succeeded.model_extra is not None
    assert succeeded.model_extra["user_provided_suffix"] == "My Model!"


def test_the_events_tell_the_story_in_openais_words_and_order(own: RunningService, succeeded: FineTuningJob) -> None:
    events = own.events(succeeded.id)
    messages = [event.message for event in events if event.type == "message" and "receipt" not in event.message]
    assert messages == [
        f"Created fine-tuning job: {succeeded.id}",
        f"Validating training file: {succeeded.training_file}",
        f"Validating validation file: {succeeded.validation_file}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        f"Checkpoint created at step 4 with Snapshot ID: {succeeded.fine_tuned_model}:ckpt-step-4",
        f"Checkpoint created at step 8 with Snapshot ID: {succeeded.fine_tuned_model}:ckpt-step-8",
        f"New fine-tuned model created: {succeeded.fine_tuned_model}",
        "The job has successfully completed",
    ]
    metrics = [event for event in events if event.type == "metrics"]
    assert metrics[-1].message.startswith("Step 12/12: training loss=")
    assert "full validation loss=" in metrics[-1].message
    assert metrics[-1].data["total_steps"] == 12
    assert 0 <= metrics[-1].data["train_mean_token_accuracy"] <= 1
    assert [event.created_at for event in events] == sorted(event.created_at for event in events)


def test_the_checkpoints_are_one_an_epoch_and_the_newest_is_the_model(
    own: RunningService, succeeded: FineTuningJob
) -> None:
    page = own.client.fine_tuning.jobs.checkpoints.list(succeeded.id)
    assert [checkpoint.step_number for checkpoint in page.data] == [12, 8, 4]
    assert page.data[0].fine_tuned_model_checkpoint == succeeded.fine_tuned_model
    assert page.data[0].metrics.full_valid_loss is not None
    models = [model.id for model in own.client.models.list()]
    for checkpoint in page.data:
        assert checkpoint.fine_tuned_model_checkpoint in models


def test_the_result_file_has_a_row_a_step(own: RunningService, succeeded: FineTuningJob) -> None:
    file = own.client.files.retrieve(succeeded.result_files[0])
    assert (file.filename, file.purpose) == ("step_metrics.csv", "fine-tune-results")
    rows = list(csv.DictReader(io.StringIO(own.client.files.content(file.id).text)))
    assert list(rows[0]) == [
        "step",
        "train_loss",
        "train_mean_token_accuracy",
        "valid_loss",
        "valid_mean_token_accuracy",
        "full_valid_loss",
        "full_valid_mean_token_accuracy",
    ]
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])


def test_a_succeeded_job_cannot_be_cancelled_any_more(own: RunningService, succeeded: FineTuningJob) -> None:
    with pytest.raises(openai.BadRequestError, match="already succeeded"):
        own.client.fine_tuning.jobs.cancel(succeeded.id)
    assert own.client.fine_tuning.jobs.retrieve(succeeded.id) == succeeded


def test_the_same_seed_gives_the_same_adapter(own: RunningService, succeeded: FineTuningJob) -> None:
    adapters = own.data_dir / "objects" / "adapters"
    before = sorted(path.name for path in adapters.iterdir())
    again = own.wait_for_job(create(own, n_epochs=3), timeout=TRAINING_SECONDS)
    assert again.status == "succeeded"
    assert sorted(path.name for path in adapters.iterdir()) == before


def test_the_model_is_gone_once_it_is_deleted(own: RunningService, succeeded: FineTuningJob) -> None:
    assert succeeded.fine_tuned_model is not None
    assert own.client.models.delete(succeeded.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        own.client.models.retrieve(succeeded.fine_tuned_model)


def test_a_killed_trainer_is_started_again_and_the_job_says_so(own_service: RunningService) -> None:
    job_id = create(own_service)
    kill_trainer(own_service, job_id)
    job = own_service.wait_for_job(job_id, timeout=TRAINING_SECONDS)
    assert job.status == "succeeded", own_service.describe(job_id)
    [told] = [event.message for event in own_service.events(job_id) if "killed by signal 9" in event.message]
    assert "attempt 2" in told


def test_a_trainer_that_is_killed_every_time_fails_the_job_with_advice(
    start_service: StartService, tmp_path: Path
) -> None:
    service = start_service(tmp_path / "data", serving="off", max_attempts="2")
    job_id = create_long(service)
    for attempt in (1, 2):
        kill_trainer(service, job_id, attempt)
    job = service.wait_for_job(job_id, timeout=TRAINING_SECONDS)
    assert job.error is not None
    assert job.error.code == "trainer_crashed"
    assert "batch_size" in job.error.message


@pytest.mark.parametrize("moment", ["created", "started", "trained_a_step", "finished_alone"])
def test_a_service_that_is_killed_finds_its_job_again(own_service: RunningService, moment: str) -> None:
    job_id = create(own_service)
    trainer = trainer_of(own_service, job_id)
    if moment != "created":
        own_service.wait_for_job(job_id, "running")
    if moment == "trained_a_step":
        wait_until(lambda: has_metrics(own_service, job_id), TRAINING_SECONDS, "no step was told")
    own_service.kill()
    if moment == "finished_alone":
        wait_until(lambda: trainer.exit_code() is not None, TRAINING_SECONDS, "the trainer did not end")
    own_service.start()
    job = own_service.wait_for_job(job_id, timeout=TRAINING_SECONDS)
    assert job.status == "succeeded", own_service.describe(job_id)
    messages = [event.message for event in own_service.events(job_id)]
    assert len(messages) == len(set(messages)), "an event is there twice"
    executions = [path.name for path in (own_service.data_dir / "executions").iterdir()]
    assert executions == [f"{job_id}-1"]


def test_a_stopped_service_leaves_its_job_running(own_service: RunningService) -> None:
    job_id = create(own_service)
    own_service.wait_for_job(job_id, "running")
    own_service.stop()
    assert trainer_of(own_service, job_id).was_started
    own_service.start()
    assert own_service.wait_for_job(job_id, timeout=TRAINING_SECONDS).status == "succeeded"


def test_a_cancelled_job_ends_its_processes_and_makes_room(own_service: RunningService) -> None:
    running = create_long(own_service)
    wait_until(lambda: has_metrics(own_service, running), TRAINING_SECONDS, "no step was told")
    waiting = own_service.wait_for_job(create_long(own_service), "queued").id
    cancelled = own_service.client.fine_tuning.jobs.cancel(running)
    assert cancelled.status == "cancelled"
    assert cancelled.error is None
    wait_until(lambda: not trainer_of(own_service, running).is_alive(), 30, "the trainer lives on")
    own_service.wait_for_job(waiting, "running")
    own_service.client.fine_tuning.jobs.cancel(waiting)
    with pytest.raises(openai.BadRequestError, match="already cancelled"):
        own_service.client.fine_tuning.jobs.cancel(waiting)


def test_a_file_that_is_deleted_before_its_job_starts_fails_it(own_service: RunningService) -> None:
    running = create_long(own_service)
    own_service.wait_for_job(running, "running")
    job = own_service.wait_for_job(create(own_service), "queued")
    own_service.client.files.delete(job.training_file)
    own_service.client.fine_tuning.jobs.cancel(running)
    job = own_service.wait_for_job(job.id)
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("deleted_training_file", "training_file")


def test_a_base_model_that_cannot_be_loaded_fails_the_job_and_says_so(
    start_service: StartService, tmp_path: Path
) -> None:
    catalogue, model = catalogue_with_copied_model(tmp_path)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    service = start_service(tmp_path / "data", serving="off", models_file=str(catalogue))
    job = service.wait_for_job(create(service), timeout=TRAINING_SECONDS)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error.code == "model_unavailable"


def test_a_trainer_without_memory_fails_the_job_with_the_setting_that_helps(
    start_service: StartService, tmp_path: Path
) -> None:
    catalogue, _ = catalogue_with_copied_model(tmp_path, context_length=32768)
    service = start_service(tmp_path / "data", serving="off", models_file=str(catalogue))
    # What the service starts from now on inherits this. A trainer maps some 2.4 GiB before its first step.
    resource.prlimit(service.pid, resource.RLIMIT_AS, (7 * GIB // 2, 7 * GIB // 2))
    rows = [chat_row("What?", "A long answer. " * 6000) for _ in range(10)]
    job = service.client.fine_tuning.jobs.create(
        model="fettle-tiny",
        training_file=service.upload(to_jsonl(rows)),
        hyperparameters={"batch_size": 1, "n_epochs": 1},
    )
    job = service.wait_for_job(job.id, timeout=TRAINING_SECONDS)
    assert job.error is not None
    assert job.error.code == "out_of_memory", service.describe(job.id)
    assert "x_training.precision to bfloat16, or x_training.max_length to 16384" in job.error.message


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        missing("the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path, *, leave: int) -> Path:
    free = os.statvfs(folder)
    filler = folder / "filler"
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize - leave))
    return filler


def test_a_disk_that_fills_during_an_upload_refuses_it_and_keeps_the_rest(
    small_disk: Path, start_service: StartService
) -> None:
    service = start_service(small_disk / "data", serving="off")
    kept = service.upload(b"{}\n")
    filler = fill(small_disk, leave=3_000_000)
    with pytest.raises(openai.InternalServerError) as error:
        service.upload(bytes(8_000_000))
    assert (error.value.status_code, error.value.code) == (507, "storage_full")
    assert error.value.response.headers["x-should-retry"] == "false"
    assert [file.id for file in service.client.files.list()] == [kept]
    assert os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize > 2_000_000, "something was left behind"
    filler.unlink()
    service.upload(bytes(8_000_000))


def test_a_disk_that_fills_during_training_fails_the_job_and_says_so(
    small_disk: Path, start_service: StartService
) -> None:
    service = start_service(small_disk / "data", serving="off")
    job_id = create(service, rows=40, n_epochs=1)
    service.wait_for_job(job_id, "running")
    fill(small_disk, leave=500_000)  # less than an adapter, enough for the result and the database
    job = service.wait_for_job(job_id, timeout=TRAINING_SECONDS)
    assert job.error is not None
    assert job.error.code == "disk_full", service.describe(job_id)
