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

from service.processes import DetachedProcess
from tests.fixtures.catalogues import catalogue_with_copied_model
from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import RunningService, wait_until

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


class TestASucceededJob:
    @pytest.fixture(scope="class")
    def own(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
        service = RunningService(tmp_path_factory.mktemp("e2e") / "data", serving="off")
        try:
            yield service.start()
        finally:
            service.clean_up()

    @pytest.fixture(scope="class")
    def job(self, own: RunningService) -> openai.types.fine_tuning.FineTuningJob:
        job = own.client.fine_tuning.jobs.create(
            model="fettle-tiny",
            training_file=own.upload(to_jsonl(chat_rows(16))),
            validation_file=own.upload(to_jsonl(chat_rows(5))),
            hyperparameters={"n_epochs": 3, "batch_size": 4},
            suffix="My Model!",
            seed=7,
            metadata={"team": "tests"},
        )
        ended = own.wait_for_job(job.id, timeout=TRAINING_SECONDS)
        assert ended.status == "succeeded", own.describe(job.id)
        return ended

    def test_it_is_complete(self, job: openai.types.fine_tuning.FineTuningJob) -> None:
        assert job.error is None
        assert job.fine_tuned_model == f"ft:fettle-tiny:fettle:My-Model:{job.id[-8:]}"
        assert job.trained_tokens is not None
        assert job.trained_tokens > 0
        assert job.trained_tokens % 3 == 0
        assert job.finished_at is not None
        assert job.estimated_finish is None
        assert (job.seed, job.metadata) == (7, {"team": "tests"})
        assert job.organization_id == "org-fettle"
        assert job.model_extra is not None
        assert job.model_extra["user_provided_suffix"] == "My Model!"

    def test_its_events_tell_the_story_in_openais_words_and_order(
        self, own: RunningService, job: openai.types.fine_tuning.FineTuningJob
    ) -> None:
        events = own.events(job.id)
        messages = [event.message for event in events if event.type == "message" and "receipt" not in event.message]
        assert messages == [
            f"Created fine-tuning job: {job.id}",
            f"Validating training file: {job.training_file}",
            f"Validating validation file: {job.validation_file}",
            "Files validated, moving job to queued state",
            "Fine-tuning job started",
            f"Checkpoint created at step 4 with Snapshot ID: {job.fine_tuned_model}:ckpt-step-4",
            f"Checkpoint created at step 8 with Snapshot ID: {job.fine_tuned_model}:ckpt-step-8",
            f"New fine-tuned model created: {job.fine_tuned_model}",
            "The job has successfully completed",
        ]
        metrics = [event for event in events if event.type == "metrics"]
        assert metrics[-1].message.startswith("Step 12/12: training loss=")
        assert "full validation loss=" in metrics[-1].message
        assert metrics[-1].data["total_steps"] == 12
        assert 0 <= metrics[-1].data["train_mean_token_accuracy"] <= 1
        assert [event.created_at for event in events] == sorted(event.created_at for event in events)

    def test_its_checkpoints_are_one_an_epoch_and_the_newest_is_the_model(
        self, own: RunningService, job: openai.types.fine_tuning.FineTuningJob
    ) -> None:
        page = own.client.fine_tuning.jobs.checkpoints.list(job.id)
        assert [checkpoint.step_number for checkpoint in page.data] == [12, 8, 4]
        assert page.data[0].fine_tuned_model_checkpoint == job.fine_tuned_model
        assert page.data[0].metrics.full_valid_loss is not None
        models = [model.id for model in own.client.models.list()]
        for checkpoint in page.data:
            assert checkpoint.fine_tuned_model_checkpoint in models

    def test_its_result_file_has_a_row_a_step(
        self, own: RunningService, job: openai.types.fine_tuning.FineTuningJob
    ) -> None:
        file = own.client.files.retrieve(job.result_files[0])
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

    def test_it_cannot_be_cancelled_any_more(
        self, own: RunningService, job: openai.types.fine_tuning.FineTuningJob
    ) -> None:
        with pytest.raises(openai.BadRequestError, match="already succeeded"):
            own.client.fine_tuning.jobs.cancel(job.id)
        assert own.client.fine_tuning.jobs.retrieve(job.id) == job

    def test_the_same_seed_gives_the_same_adapter(
        self, own: RunningService, job: openai.types.fine_tuning.FineTuningJob
    ) -> None:
        adapters = own.data_dir / "objects" / "adapters"
        before = sorted(path.name for path in adapters.iterdir())
        again = own.wait_for_job(create(own, n_epochs=3), timeout=TRAINING_SECONDS)
        assert again.status == "succeeded"
        assert sorted(path.name for path in adapters.iterdir()) == before

    def test_its_model_is_gone_once_it_is_deleted(
        self, own: RunningService, job: openai.types.fine_tuning.FineTuningJob
    ) -> None:
        assert job.fine_tuned_model is not None
        assert own.client.models.delete(job.fine_tuned_model).deleted
        with pytest.raises(openai.NotFoundError):
            own.client.models.retrieve(job.fine_tuned_model)


def test_a_killed_trainer_is_started_again_and_the_job_says_so(own_service: RunningService) -> None:
    job_id = create(own_service)
    kill_trainer(own_service, job_id)
    job = own_service.wait_for_job(job_id, timeout=TRAINING_SECONDS)
    assert job.status == "succeeded", own_service.describe(job_id)
    warnings = [event.message for event in own_service.events(job_id) if event.level == "warn"]
    assert len(warnings) == 1
    assert "killed by signal 9" in warnings[0]
    assert "attempt 2" in warnings[0]


def test_a_trainer_that_is_killed_every_time_fails_the_job_with_advice(tmp_path: Path) -> None:
    service = RunningService(tmp_path / "data", serving="off", max_attempts="2")
    try:
        service.start()
        job_id = create_long(service)
        for attempt in (1, 2):
            kill_trainer(service, job_id, attempt)
        job = service.wait_for_job(job_id, timeout=TRAINING_SECONDS)
        assert job.error is not None
        assert job.error.code == "trainer_crashed"
        assert "batch_size" in job.error.message
    finally:
        service.clean_up()


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
    running, waiting = create_long(own_service), create_long(own_service)
    wait_until(lambda: has_metrics(own_service, running), TRAINING_SECONDS, "no step was told")
    assert own_service.client.fine_tuning.jobs.retrieve(waiting).status == "queued"
    cancelled = own_service.client.fine_tuning.jobs.cancel(running)
    assert cancelled.status == "cancelled"
    assert cancelled.error is None
    wait_until(lambda: not trainer_of(own_service, running).is_alive(), 30, "the trainer lives on")
    own_service.wait_for_job(waiting, "running")
    own_service.client.fine_tuning.jobs.cancel(waiting)
    with pytest.raises(openai.BadRequestError, match="already cancelled"):
        own_service.client.fine_tuning.jobs.cancel(waiting)


def test_a_file_that_is_deleted_before_its_job_starts_fails_it(own_service: RunningService) -> None:
    running, waiting = create_long(own_service), create(own_service)
    job = own_service.wait_for_job(waiting, "queued")
    own_service.client.files.delete(job.training_file)
    own_service.client.fine_tuning.jobs.cancel(running)
    job = own_service.wait_for_job(waiting)
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("deleted_training_file", "training_file")


def test_a_base_model_that_cannot_be_loaded_fails_the_job_and_says_so(tmp_path: Path) -> None:
    catalogue, model = catalogue_with_copied_model(tmp_path)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    service = RunningService(tmp_path / "data", serving="off", models_file=str(catalogue))
    try:
        service.start()
        job = service.wait_for_job(create(service), timeout=TRAINING_SECONDS)
        assert job.status == "failed"
        assert job.error is not None
        assert job.error.code == "model_unavailable"
    finally:
        service.clean_up()


def test_a_trainer_without_memory_fails_the_job_with_the_setting_that_helps(tmp_path: Path) -> None:
    catalogue, _ = catalogue_with_copied_model(tmp_path)
    service = RunningService(tmp_path / "data", serving="off", models_file=str(catalogue))
    limits = resource.getrlimit(resource.RLIMIT_AS)
    try:
        service.start()
        resource.setrlimit(resource.RLIMIT_AS, limits)
        job_id = create(service, rows=256, batch_size=256)
        pid = int((trainer_of(service, job_id).folder / "pid").read_text()) if False else None
        assert pid is None
    finally:
        service.clean_up()


def test_a_disk_that_is_full_keeps_the_job_until_there_is_room(tmp_path: Path) -> None:
    subprocess.run(["true"], check=True)
