"""Fine-tuning jobs: created, listed, cancelled, paused, resumed, and what one leaves behind."""

import openai
from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob
from strict import client, refused, wait_for

jobs = client.fine_tuning.jobs


def check(file: FileObject) -> FineTuningJob:
    """Returns one that succeeded."""
    job = _create(file)
    other = _create_as_before(file)
    newest_first = [listed.id for listed in jobs.list(limit=1)]  # page after page
    assert newest_first[:2] == [other.id, job.id], newest_first
    with_metadata = [listed.id for listed in jobs.list(metadata={"file": file.id})]
    assert with_metadata == [job.id], with_metadata
    if openai.__version__.startswith("3."):  # once is enough: it takes two more starts of the trainer
        _pause_and_resume(other)
    _cancel(other)
    job = wait_for(lambda: jobs.retrieve(job.id), lambda seen: seen.status in ("succeeded", "failed", "cancelled"))
    _look_at_what_it_left(job)
    return job


def _create(file: FileObject) -> FineTuningJob:
    raw = jobs.with_raw_response.create(
        model="fettle-tiny",
        training_file=file.id,
        validation_file=file.id,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}},
        suffix="whole",
        seed=7,
        metadata={"sdk": openai.__version__, "file": file.id},
        integrations=[{"type": "wandb", "wandb": {"project": "clients", "tags": ["strict"]}}],
    )
    assert raw.headers["x-request-id"]
    assert raw.headers["openai-version"] == "2020-10-01"
    assert int(raw.headers["openai-processing-ms"]) >= 0
    job = raw.parse()
    assert (job.status, job.error, job.fine_tuned_model) == ("validating_files", None, None), job
    assert (job.seed, job.metadata) == (7, {"sdk": openai.__version__, "file": file.id}), job
    [integration] = job.integrations
    assert (integration.type, integration.wandb.project, integration.wandb.name) == ("wandb", "clients", job.id), job
    return job


def _create_as_before(file: FileObject) -> FineTuningJob:
    """As scripts wrote it before there was `method`. It would run for minutes."""
    hyperparameters = {"n_epochs": 50, "batch_size": 1, "learning_rate_multiplier": "auto"}
    job = jobs.create(model="fettle-tiny", training_file=file.id, hyperparameters=hyperparameters)
    assert job.hyperparameters.to_dict() == hyperparameters, job
    return job


def _pause_and_resume(job: FineTuningJob) -> None:
    wait_for(lambda: list(jobs.list_events(job.id)), lambda events: any(event.type == "metrics" for event in events))
    paused = jobs.pause(job.id)
    assert (paused.status, paused.paused) == ("queued", True), paused
    assert jobs.retrieve(job.id).paused, "the pause did not last"
    resumed = jobs.resume(job.id)
    assert resumed.status in ("queued", "running"), resumed
    assert not resumed.paused, resumed


def _cancel(job: FineTuningJob) -> None:
    assert jobs.cancel(job.id).status == "cancelled"
    refusal = refused(openai.BadRequestError, lambda: jobs.cancel(job.id))
    assert "already cancelled" in refusal["message"], refusal


def _look_at_what_it_left(job: FineTuningJob) -> None:
    assert job.status == "succeeded", job
    assert job.fine_tuned_model.startswith("ft:fettle-tiny:"), job
    assert job.trained_tokens, job
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (2, 4), job

    events = list(jobs.list_events(job.id, limit=5))
    assert events[-1].message == f"Created fine-tuning job: {job.id}", events[-1]
    assert events[0].message == "The job has successfully completed", events[0]
    assert {event.type for event in events} == {"message", "metrics"}, events

    checkpoints = list(jobs.checkpoints.list(job.id, limit=1))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [6, 3], checkpoints
    assert checkpoints[0].fine_tuned_model_checkpoint == job.fine_tuned_model, checkpoints

    metrics = client.files.content(job.result_files[0]).text.splitlines()
    assert metrics[0].startswith("step,train_loss,"), metrics
    assert len(metrics) == 1 + 6, metrics
