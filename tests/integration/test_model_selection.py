"""Which step becomes the result: the best on the validation rows or the last, and when training stops by itself."""

import csv
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.tiny_model import build_tiny_model
from tests.fixtures.training_job import TrainingJob, events_in, write_job
from tests.fixtures.training_run import folder_of, next_attempt, run_here, start
from trainer_image import progress
from trainer_image.checkpoints import publish_adapter
from trainer_image.data import load_rows
from trainer_image.model import load_renderer
from trainer_image.progress import StepProgress
from tuning.contract import ErrorCode, ExitCode, JobResult, JobSpec, SelectionSpec

STEPS = 24
"""6 rows in batches of 3, twelve times: so few that the model soon learns them by heart and validation gets worse."""


PATIENT = {"eval_steps": 3, "early_stopping_patience": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_tiny_model(folder)
    return folder


def write(folder: Path, model: Path, *, learning_rate: float = 2e-2, **selection: Any) -> TrainingJob:
    method = {"batch_size": 3, "n_epochs": 12, "lr_scheduler_type": "constant", "learning_rate": learning_rate}
    spec = write_job(folder, model, rows=6, validation_rows=12, **method).spec
    settings = {"keep": "best", "eval_steps": None, "early_stopping_patience": None, **selection}
    lora = spec.lora.model_copy(update={"lora_alpha": 32})
    return TrainingJob(
        spec.model_copy(update={"lora": lora, "selection": SelectionSpec.model_validate(settings)}), folder
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[JobSpec, JobResult]:
    """Stopped by itself, and by nobody else."""
    job = write(tmp_path_factory.mktemp("whole") / "job", model, **PATIENT)
    result = run_here(job)
    assert result is not None
    return job.spec, result


def validated(spec: JobSpec) -> dict[int, float]:
    """The loss on all validation rows, by step."""
    with (folder_of(spec) / "step_metrics.csv").open() as file:
        return {
            int(row["step"]): float(row["full_valid_loss"]) for row in csv.DictReader(file) if row["full_valid_loss"]
        }


def checkpoints(spec: JobSpec) -> list[dict[str, Any]]:
    return [event for event in events_in(folder_of(spec)) if event["type"] == "checkpoint"]


def check_kept(spec: JobSpec, result: JobResult | None, step: int) -> None:
    """That step is the result, and is told as such after everything else."""
    assert result is not None
    told = checkpoints(spec)
    assert [event["is_result"] for event in told] == [False] * (len(told) - 1) + [True]
    assert told[-1]["step"] == told[-1]["metrics"]["step"] == step
    assert told[-1]["adapter_sha256"] == result.adapter_sha256
    own = {event["step"]: event["adapter_sha256"] for event in told[:-1]}
    assert own.get(step, result.adapter_sha256) == result.adapter_sha256
    folder = Path(spec.adapters_uri.removeprefix("file://"))
    assert all((folder / event["adapter_sha256"] / "manifest.json").exists() for event in told)


def test_the_best_step_is_the_result_and_the_last_one_stays_a_checkpoint(tmp_path: Path, model: Path) -> None:
    job = write(tmp_path / "job", model)
    result = run_here(job)
    losses = validated(job.spec)
    assert list(losses) == list(range(2, STEPS + 1, 2))
    best = min(losses, key=lambda step: losses[step])
    assert best < STEPS, losses
    check_kept(job.spec, result, best)
    assert [event["step"] for event in checkpoints(job.spec)] == [*range(2, STEPS + 1, 2), best]
    assert result is not None and result.steps == STEPS
    assert checkpoints(job.spec)[-1]["metrics"]["full_valid_loss"] == losses[best]
    [message] = [event["message"] for event in events_in(folder_of(job.spec)) if event["type"] == "message"]
    assert message == f"The result is the model of step {best}, the best on the validation rows."


def test_every_step_that_is_better_is_published_at_once(tmp_path: Path, model: Path) -> None:
    job = write(tmp_path / "job", model, eval_steps=3)
    result = run_here(job)
    losses = validated(job.spec)
    assert list(losses) == list(range(3, STEPS + 1, 3))
    better = [step for step in losses if losses[step] == min(losses[s] for s in losses if s <= step)]
    epochs = list(range(2, STEPS + 1, 2))
    check_kept(job.spec, result, better[-1])
    told = [event["step"] for event in checkpoints(job.spec)]
    assert told[: len({*better, *epochs})] == sorted({*better, *epochs})


@pytest.mark.parametrize("keep", ["best", "last"])
def test_training_stops_when_it_no_longer_helps(tmp_path: Path, model: Path, keep: str) -> None:
    """Nothing changes at a rate of 0: of the evaluations after steps 3, 6 and 9 the first stays the best."""
    job = write(tmp_path / "job", model, learning_rate=0.0, keep=keep, **PATIENT)
    result = run_here(job)
    assert list(validated(job.spec)) == [3, 6, 9]
    check_kept(job.spec, result, 3 if keep == "best" else 9)
    assert result is not None and result.error is None and result.steps == 9
    [message] = [event["message"] for event in events_in(folder_of(job.spec)) if event["type"] == "message"]
    assert "stopped early: the last 2 evaluations" in message
    assert ("the model of step 3" in message) == (keep == "best")
    assert len((folder_of(job.spec) / "step_metrics.csv").read_text().splitlines()) == 1 + 9
    renderer = load_renderer(job.spec)[1]
    rows, receipt = load_rows(job.spec.training_data, renderer, tmp_path / "rows", "training_file")
    in_half = result.trained_tokens - 4 * receipt.tokens  # of the fifth pass
    assert in_half in {sum(len(rows[i]["input_ids"]) for i in half) for half in combinations(range(6), 3)}


@pytest.mark.parametrize("stops", [(9,), (3, 10)], ids=str)
def test_a_resumed_run_keeps_and_stops_as_one_that_was_not_interrupted(
    tmp_path: Path, model: Path, whole: tuple[JobSpec, JobResult], stops: tuple[int, ...]
) -> None:
    job = write(tmp_path / "job", model, **PATIENT)
    whole_spec, expected = whole
    assert expected.steps is not None and expected.steps > stops[-1]
    spec = job.spec
    for stop in stops:
        assert run_here(job, spec, stop_after=stop) is None
        spec = next_attempt(spec)
    result = run_here(job, spec)
    assert result is not None
    same = ("adapter_sha256", "steps", "trained_tokens")
    assert [getattr(result, name) for name in same] == [getattr(expected, name) for name in same]
    check_kept(spec, result, checkpoints(whole_spec)[-1]["step"])
    assert checkpoints(spec)[-1]["metrics"] == checkpoints(whole_spec)[-1]["metrics"]
    assert validated(spec) == validated(whole_spec)


def test_sigterm_at_the_step_at_which_training_stops_by_itself_changes_nothing(tmp_path: Path, model: Path) -> None:
    job = write(tmp_path / "job", model, learning_rate=0.0, **PATIENT)
    check_kept(job.spec, run_here(job, stop_after=9), 3)


@pytest.mark.parametrize("killed_in", ["an upload", "the end"])
def test_a_run_that_is_killed_ends_as_one_that_was_not(
    tmp_path: Path, model: Path, whole: tuple[JobSpec, JobResult], killed_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of what it knew but its events and adapters: the next start does everything again."""
    job = write(tmp_path / "job", model, **PATIENT)
    uploads = 0

    def upload_or_die(*arguments: Any) -> str:
        nonlocal uploads
        uploads += 1
        if uploads == 5:
            raise Killed
        return publish_adapter(*arguments)

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if killed_in == "the end":
            patch.setattr(StepProgress, "_end", die)
        else:
            patch.setattr(progress, "publish_adapter", upload_or_die)
        with pytest.raises(Killed):
            run_here(job)
    result = run_here(job)
    assert result is not None and result.adapter_sha256 == whole[1].adapter_sha256
    told = checkpoints(job.spec)
    assert [event["step"] for event in told if event["is_result"]] == [checkpoints(whole[0])[-1]["step"]]
    assert told[-1]["is_result"]


class Killed(BaseException):
    pass


def test_a_job_that_diverges_keeps_the_checkpoints_of_the_epochs_before(tmp_path: Path, model: Path) -> None:
    """The rate is zero in the first step and far too high in the second; the third finds the loss gone."""
    job = write_job(tmp_path / "job", model, rows=6, batch_size=6, n_epochs=4, learning_rate=1e30, max_grad_norm=0.0)
    process = start(job)
    process.communicate(timeout=120)
    assert process.returncode == ExitCode.USER_ERROR
    result = job.result()
    assert result is not None and result.error is not None and result.error.code is ErrorCode.DIVERGED
    assert "x_training.learning_rate" in result.error.message
    assert checkpoints(job.spec)[0]["step"] == 1
