"""A run that was stopped and goes on ends with the very adapter of one that was not, and trusts no damaged state."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.tiny_model import build_tiny_model
from tests.fixtures.training_job import TrainingJob, events_in, write_job
from tests.fixtures.training_run import folder_of, newest_state, next_attempt, run_here
from trainer_image.training_state import STATE_FILES
from tuning.adapter_manifest import ADAPTER_FILES, AdapterManifest, describe_file
from tuning.contract import JobResult

STEPS = 10
"""37 rows in batches of 8, twice: the first epoch ends with step 5. Dropout is on, and rows are packed."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[TrainingJob, JobResult]:
    """Never interrupted."""
    job = write_job(tmp_path_factory.mktemp("whole") / "job", model, validation_rows=12)
    assert job.spec.lora.lora_dropout > 0 and job.spec.method.packing
    result = run_here(job)
    assert result is not None
    return job, result


@pytest.fixture
def job(tmp_path: Path, model: Path) -> TrainingJob:
    return write_job(tmp_path / "job", model, validation_rows=12)


def steps_told(events: list[dict[str, Any]]) -> list[int]:
    return [event["metrics"]["step"] for event in events if event["type"] == "metrics"]


@pytest.mark.parametrize("stops", [(2,), (4,), (5,), (8,), (3, 5, 8)], ids=str)
def test_a_resumed_run_ends_with_the_same_adapter_and_metrics(
    job: TrainingJob, whole: tuple[TrainingJob, JobResult], stops: tuple[int, ...]
) -> None:
    spec, told = job.spec, []
    for stop in stops:
        assert run_here(job, spec, stop_after=stop) is None
        told += steps_told(events_in(folder_of(spec)))
        spec = next_attempt(spec)
    result = run_here(job, spec)
    assert result is not None
    told += steps_told(events_in(folder_of(spec)))
    assert told == list(range(1, STEPS + 1))
    assert (result.adapter_sha256, result.trained_tokens) == (whole[1].adapter_sha256, whole[1].trained_tokens)
    csv = (folder_of(spec) / "step_metrics.csv").read_text()
    assert csv == (folder_of(whole[0].spec) / "step_metrics.csv").read_text()
    started = events_in(folder_of(spec))[0]
    assert (started["type"], started["resumed_step"]) == ("started", stops[-1])


def test_a_stopped_run_leaves_an_adapter_of_its_last_step(job: TrainingJob) -> None:
    run_here(job, stop_after=3)
    *_, state, checkpoint = job.events()
    assert (state["type"], state["step"]) == ("state_saved", 3)
    assert (checkpoint["type"], checkpoint["step"], checkpoint["metrics"]["step"]) == ("checkpoint", 3, 3)
    folder = job.folder.parent / "adapters" / checkpoint["adapter_sha256"]
    manifest = AdapterManifest.from_json((folder / "manifest.json").read_bytes(), folder.name)
    assert manifest.files == tuple(describe_file(folder / name) for name in ADAPTER_FILES)


def test_a_state_is_read_without_running_code(job: TrainingJob) -> None:
    run_here(job, stop_after=2)
    folder = newest_state(job.spec)
    assert {path.name for path in folder.iterdir()} == {*STATE_FILES, "manifest.json"}
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.load(folder / name, weights_only=True)  # raises for a pickle that needs more than plain data


def break_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def break_file(folder: Path) -> None:
    path = folder / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_file(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def lose_file(folder: Path) -> None:
    (folder / "rng_state.pth").unlink()


def name_another_file(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][0]["name"] = "../../evil"
    path.write_text(json.dumps(manifest))


def write_nonsense(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


@pytest.mark.parametrize("damage", [break_manifest, break_file, cut_file, lose_file, name_another_file, write_nonsense])
def test_a_damaged_state_is_left_alone_and_the_run_starts_over(
    job: TrainingJob, whole: tuple[TrainingJob, JobResult], damage: Any
) -> None:
    run_here(job, stop_after=2)
    damage(newest_state(job.spec))
    spec = next_attempt(job.spec)
    result = run_here(job, spec)
    assert result is not None and result.adapter_sha256 == whole[1].adapter_sha256
    warning, started = [event for event in events_in(folder_of(spec)) if event["type"] in ("message", "started")]
    assert warning["level"] == "warn" and "first step" in warning["message"]
    assert started["resumed_step"] == 0
    assert steps_told(events_in(folder_of(spec))) == list(range(1, STEPS + 1))


@pytest.mark.parametrize("changes", [{"seed": 8}, {"job_id": "ftjob-other"}, "rows", "learning_rate"], ids=str)
def test_a_state_of_another_training_is_not_taken(
    job: TrainingJob, model: Path, tmp_path: Path, changes: dict[str, object] | str
) -> None:
    run_here(job, stop_after=2)
    if changes == "rows":
        other = write_job(tmp_path / "other", model, rows=36, validation_rows=12)
    elif changes == "learning_rate":
        other = write_job(tmp_path / "other", model, validation_rows=12, learning_rate=2e-2)
    else:
        assert isinstance(changes, dict)
        other = TrainingJob(job.spec.model_copy(update=changes), tmp_path / "other")
    spec = other.spec.model_copy(
        update={
            "resume_from": newest_state(job.spec).as_uri(),
            "output_uri": (tmp_path / "other-out").as_uri(),
        }
    )
    run_here(job, spec, stop_after=2)
    warning = next(event for event in events_in(folder_of(spec)) if event["type"] == "message")
    assert "another job, other data or other hyperparameters" in warning["message"]


def test_a_state_may_be_moved_with_its_storage(
    job: TrainingJob, whole: tuple[TrainingJob, JobResult], tmp_path: Path, model: Path
) -> None:
    run_here(job, stop_after=2)
    spec = next_attempt(job.spec)
    name = newest_state(job.spec).relative_to(folder_of(job.spec))
    shutil.move(folder_of(job.spec), tmp_path / "elsewhere")
    base = spec.base_model.model_copy(update={"source": str(shutil.copytree(model, tmp_path / "model"))})
    spec = spec.model_copy(update={"resume_from": (tmp_path / "elsewhere" / name).as_uri(), "base_model": base})
    result = run_here(job, spec)
    assert result is not None and result.adapter_sha256 == whole[1].adapter_sha256
    assert not any(event["type"] == "message" for event in events_in(folder_of(spec)))
