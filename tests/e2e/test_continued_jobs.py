"""A tuned model tuned again, with its metrics in W&B's files: a job's way from one to the other."""

import shutil
from collections.abc import Iterator

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.fixtures.refusals import refused_job
from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import RunningService, keep_running
from tests.fixtures.wandb_files import read_run

TRAINING_SECONDS = 180
STEPS = 20


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    data_dir = tmp_path_factory.mktemp("continued") / "data"
    yield from keep_running(RunningService(data_dir, serving="off", wandb_mode="offline"))


def create(service: RunningService, model: str) -> str:
    job = service.client.fine_tuning.jobs.create(
        model=model,
        training_file=service.upload(to_jsonl(chat_rows(40))),
        hyperparameters={"n_epochs": 2, "batch_size": 4},
        seed=7,
        integrations=[{"type": "wandb", "wandb": {"project": "tests", "tags": ["night"]}}],
    )
    return job.id


def finish(service: RunningService, job_id: str) -> FineTuningJob:
    job = service.wait_for_job(job_id, timeout=TRAINING_SECONDS)
    assert job.status == "succeeded", service.describe(job_id)
    return job


def losses(service: RunningService, job_id: str) -> list[float]:
    return [event.data["train_loss"] for event in service.events(job_id) if event.type == "metrics"]


@pytest.fixture(scope="module")
def parent(own: RunningService) -> FineTuningJob:
    return finish(own, create(own, "fettle-tiny"))


def test_the_run_in_wandb_has_every_step_and_the_jobs_run_id(own: RunningService, parent: FineTuningJob) -> None:
    assert parent.integrations is not None
    [integration] = parent.integrations
    assert integration.wandb.model_extra is not None
    [path] = (own.data_dir / "objects" / "jobs" / parent.id).rglob("run-*.wandb")
    run = read_run(path)
    assert run.run_id == integration.wandb.model_extra["run_id"]
    assert (run.project, run.name, run.tags) == ("tests", parent.id, ["night"])
    assert [metrics["train_loss"] for metrics in run.metrics] == pytest.approx(losses(own, parent.id))
    assert len(run.metrics) == STEPS
    assert any("wandb sync" in event.message for event in own.events(parent.id))


def test_a_tuned_models_adapter_keeps_its_shape(own: RunningService, parent: FineTuningJob) -> None:
    training_file = own.upload(to_jsonl(chat_rows(40)))
    asked = {"model": parent.fine_tuned_model, "training_file": training_file}
    error = refused_job(own, **asked, x_training={"r": 4})
    assert error["param"] == "x_training.r"
    assert error["message"].startswith("4 is not 16 - 'r': training goes on from the adapter of ft:fettle-tiny")
    job = own.client.fine_tuning.jobs.create(**asked, extra_body={"x_training": {"r": 16}})  # type: ignore[arg-type]
    own.client.fine_tuning.jobs.cancel(job.id)


def test_a_tuned_model_is_tuned_again_also_when_it_is_deleted_meanwhile(
    own: RunningService, parent: FineTuningJob
) -> None:
    checkpoints = own.client.fine_tuning.jobs.checkpoints.list(parent.id).data
    first_epoch = checkpoints[-1].fine_tuned_model_checkpoint
    job_id = create(own, first_epoch)
    own.client.fine_tuning.jobs.pause(job_id)
    own.client.models.delete(first_epoch)
    own.client.fine_tuning.jobs.resume(job_id)
    job = finish(own, job_id)
    assert job.model == first_epoch
    assert job.fine_tuned_model == f"ft:fettle-tiny:fettle::{job_id[-8:]}"
    start, end = losses(own, parent.id)[0], losses(own, parent.id)[STEPS // 2]
    assert abs(losses(own, job_id)[0] - end) < abs(losses(own, job_id)[0] - start)
    with pytest.raises(openai.BadRequestError, match="not available for fine-tuning"):
        create(own, first_epoch)


def test_a_parent_whose_files_are_gone_fails_the_job_and_says_so(own: RunningService, parent: FineTuningJob) -> None:
    assert parent.fine_tuned_model is not None
    job_id = create(own, parent.fine_tuned_model)
    own.client.fine_tuning.jobs.pause(job_id)
    shutil.rmtree(own.data_dir / "objects" / "adapters")
    own.client.fine_tuning.jobs.resume(job_id)
    job = own.wait_for_job(job_id, timeout=TRAINING_SECONDS)
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("model_unavailable", "model")
    assert parent.fine_tuned_model in job.error.message
