"""Training that goes on from an adapter: from its weights and in its shape, and only when every byte is right."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.fixtures.tiny_model import build_tiny_model
from tests.fixtures.training_job import TrainingJob, events_in, write_job
from tests.fixtures.training_run import next_attempt, run_here
from trainer_image.errors import TrainingFailed
from tuning.contract import ErrorCode, JobSpec


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingJob, str]:
    """A finished job, and its adapter."""
    folder = tmp_path_factory.mktemp("parent")
    build_tiny_model(folder / "model")
    job = write_job(folder / "job", folder / "model", n_epochs=8)
    result = run_here(job)
    assert result is not None and result.adapter_sha256 is not None
    return job, result.adapter_sha256


def go_on(parent: tuple[TrainingJob, str], name: str, **changes: Any) -> JobSpec:
    job, sha256 = parent
    method = job.spec.method.model_copy(update={"n_epochs": 1} | changes)
    return job.spec.model_copy(
        update={
            "job_id": f"ftjob-{name}",
            "parent_adapter_sha256": sha256,
            "method": method,
            "output_uri": (job.folder / name).as_uri(),
        }
    )


def losses(job: TrainingJob, output: str) -> list[float]:
    return [event["metrics"]["train_loss"] for event in events_in(job.folder / output) if event["type"] == "metrics"]


def adapters(job: TrainingJob) -> Path:
    return job.folder.parent / "adapters"


def test_training_goes_on_where_the_parent_ended(parent: tuple[TrainingJob, str]) -> None:
    job, sha256 = parent
    result = run_here(job, go_on(parent, "child"))
    assert result is not None and result.adapter_sha256 not in (None, sha256)
    base, end = losses(job, "out")[0], sum(losses(job, "out")[-5:]) / 5
    learned = base - end
    assert learned > 0.3, "the parent has learned too little to tell them apart"
    assert abs(losses(job, "child")[0] - end) < learned / 3


def test_the_parents_weights_are_taken_exactly(parent: tuple[TrainingJob, str]) -> None:
    job, sha256 = parent
    result = run_here(job, go_on(parent, "unmoved", learning_rate=0.0))
    assert result is not None and result.adapter_sha256 is not None
    before, after = (
        load_file(adapters(job) / each / "adapter_model.safetensors") for each in (sha256, result.adapter_sha256)
    )
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)


def test_a_stopped_run_goes_on_from_its_state_and_not_from_the_parent(parent: tuple[TrainingJob, str]) -> None:
    job, _ = parent
    whole = run_here(job, go_on(parent, "whole"))
    spec = go_on(parent, "whole").model_copy(update={"output_uri": (job.folder / "stopped").as_uri()})
    assert run_here(job, spec, stop_after=3) is None
    resumed = run_here(job, next_attempt(spec))
    assert whole is not None and resumed is not None and resumed.adapter_sha256 == whole.adapter_sha256


def fails(parent: tuple[TrainingJob, str], spec: JobSpec) -> str:
    with pytest.raises(TrainingFailed) as failed:
        run_here(parent[0], spec)
    assert failed.value.error.code is ErrorCode.MODEL_UNAVAILABLE and failed.value.error.param == "model"
    return failed.value.error.message


def test_a_parent_that_is_missing_fails_the_job(parent: tuple[TrainingJob, str]) -> None:
    spec = go_on(parent, "missing").model_copy(update={"parent_adapter_sha256": "0" * 64})
    assert "no longer lies in the object storage" in fails(parent, spec)


@pytest.mark.parametrize("name", ["manifest.json", "adapter_model.safetensors"])
def test_a_damaged_parent_fails_the_job(parent: tuple[TrainingJob, str], name: str) -> None:
    job, sha256 = parent
    path = adapters(job) / sha256 / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        assert "damaged" in fails(parent, go_on(parent, f"damaged-{name}"))
    finally:
        path.write_bytes(content)


def test_a_parent_of_another_base_fails_the_job(parent: tuple[TrainingJob, str]) -> None:
    spec = go_on(parent, "other-base")
    base = spec.base_model.model_copy(update={"name": "another"})
    assert "was trained on tiny" in fails(parent, spec.model_copy(update={"base_model": base}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"r": 8}, "it has r 4, alpha 8"), ({"target_modules": ("q_proj",)}, "do not fit")],
    ids=["rank", "modules"],
)
def test_a_parent_of_another_shape_fails_the_job(
    parent: tuple[TrainingJob, str], change: dict[str, Any], reason: str
) -> None:
    spec = go_on(parent, "other-shape")
    lora = spec.lora.model_copy(update=change)
    assert reason in fails(parent, spec.model_copy(update={"lora": lora}))
