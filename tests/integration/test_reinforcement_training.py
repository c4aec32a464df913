"""Reinforcement runs in the trainer: the reward rises, a run that was stopped draws the very answers of one that was
not, and a grader that fails is told."""

import csv
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.fixtures.tiny_model import build_tiny_model
from tests.fixtures.training_job import TrainingJob, events_in, write_job
from tests.fixtures.training_run import build_trainer, folder_of, load_validation_rows, next_attempt, run_here, train
from trainer_image.errors import TrainingFailed
from trainer_image.methods.sampling import TOKENS_AT_ONCE
from tuning.contract import ErrorCode, ExitCode, JobResult, JobSpec, ProcessesSpec
from tuning.data.formats import parse_row
from tuning.memory import TOKENS_PER_MICRO_BATCH

CHECK: dict[str, Any] = {"type": "string_check", "input": "{{sample.output_text}}", "operation": "like"}
ALIKE: dict[str, Any] = {
    "type": "text_similarity",
    "input": "{{sample.output_text}}",
    "reference": "the quick brown fox, and {{item.number}}",
    "evaluation_metric": "fuzzy_match",
}
"""Another reward for almost every answer."""
SMALL: dict[str, Any] = {
    "rows": 10,
    "batch_size": 4,
    "validation_rows": 3,
    "grader": ALIKE,
    "samples_per_prompt": 4,
    "beta": 0.05,
}
"""Six steps; the last one of each epoch has two prompts."""
STEPS = 6
EXAMPLE = Path(__file__).parents[2] / "examples" / "reinforcement"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random one whose opinions can become strong: its output head, which is not trained, is the embedding."""
    folder = tmp_path_factory.mktemp("model")
    build_tiny_model(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[TrainingJob, JobResult]:
    """Never interrupted."""
    job = job_of(tmp_path_factory.mktemp("whole") / "job", model, **SMALL)
    result = run_here(job)
    assert result is not None
    return job, result


def job_of(folder: Path, model: Path, *, lora_dropout: float = 0.1, **changes: Any) -> TrainingJob:
    job = write_job(folder, model, method="reinforcement", **changes)
    lora = job.spec.lora.model_copy(update={"lora_dropout": lora_dropout})
    return changed(job, lora=lora)


def changed(job: TrainingJob, **changes: Any) -> TrainingJob:
    spec = job.spec.model_copy(update=changes)
    (job.folder / "spec.json").write_text(spec.model_dump_json())
    return TrainingJob(spec, job.folder)


def step_metrics(spec: JobSpec) -> list[dict[str, float]]:
    with (folder_of(spec) / "step_metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def messages(spec: JobSpec) -> list[tuple[str, str]]:
    return [(event["level"], event["message"]) for event in events_in(folder_of(spec)) if event["type"] == "message"]


# --- learning ---------------------------------------------------------------------------------------------------------


def test_the_reward_rises_on_prompts_that_were_held_out(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learning = {"n_epochs": 3, "learning_rate": 2e-2, "lr_scheduler_type": "constant"}
    job = job_of(tmp_path / "job", model, rows=32, validation_rows=12, eval_interval=5, **learning)
    with caplog.at_level(logging.INFO):
        result = run_here(job)
    assert result is not None and result.adapter_sha256 is not None
    metrics = step_metrics(job.spec)
    assert [row["step"] for row in metrics if "valid_reward_mean" in row] == [1, 5, 10, 12]
    first, last = metrics[0], metrics[-1]
    assert first["valid_reward_mean"] < 0.15
    assert last["full_valid_reward_mean"] > 0.6
    assert last["full_valid_loss"] == -last["full_valid_reward_mean"]
    assert last["train_reward_mean"] > 0.6
    assert all(row["train_reward_std"] >= 0 and "train_loss" in row for row in metrics)
    assert result.trained_tokens is not None and result.trained_tokens > 12 * 8 * 8 * 20  # with the drawn answers

    told = [message for _, message in messages(job.spec) if message.startswith("Validation after step ")]
    assert told[-1].startswith("Validation after step 12: best answer (reward 1) '")
    assert "eeee" in told[-1] and "plus" in told[-1]
    assert "best answer" not in caplog.text and "plus" not in caplog.text  # what users wrote is for events only


def test_every_lora_weight_moves_and_no_base_weight_does(tmp_path: Path, model: Path) -> None:
    job = job_of(tmp_path / "job", model, grader=ALIKE, rows=4, n_epochs=3)
    trainer = build_trainer(job, tmp_path)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.on_rows_loaded()
    trainer.train()
    for name, weight in trainer.model.named_parameters():
        assert torch.equal(weight.detach(), before[name]) == ("lora_" not in name), name


# --- exactness --------------------------------------------------------------------------------------------------------


def test_a_resumed_run_draws_the_same_answers_and_ends_with_the_same_adapter(
    tmp_path: Path, model: Path, whole: tuple[TrainingJob, JobResult]
) -> None:
    job = job_of(tmp_path / "job", model, **SMALL)
    spec = job.spec
    for stop in (2, 5):
        assert run_here(job, spec, stop_after=stop) is None
        spec = next_attempt(spec)
    result = run_here(job, spec)
    assert result is not None
    assert (result.adapter_sha256, result.trained_tokens) == (whole[1].adapter_sha256, whole[1].trained_tokens)
    assert step_metrics(spec) == step_metrics(whole[0].spec)
    assert len(step_metrics(spec)) == STEPS


def test_evaluation_and_small_micro_batches_change_nothing(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = SMALL | {"n_epochs": 1, "lora_dropout": 0.0}
    plain = job_of(tmp_path / "plain", model, **size)
    run_here(plain)
    monkeypatch.setitem(TOKENS_PER_MICRO_BATCH, "cpu", 150)
    monkeypatch.setitem(TOKENS_AT_ONCE, "cpu", 300)
    cut = job_of(tmp_path / "cut", model, **(size | {"validation_rows": 0, "packing": False}))
    run_here(cut)
    for row, expected in zip(step_metrics(cut.spec), step_metrics(plain.spec), strict=True):
        assert row == pytest.approx({name: expected[name] for name in row}, abs=1e-5)


def test_evaluation_is_the_same_each_time_and_greedy_for_one_answer(tmp_path: Path, model: Path) -> None:
    job = job_of(tmp_path / "job", model, rows=4, validation_rows=5, eval_samples=2)
    trainer, rows = build_trainer(job, tmp_path), load_validation_rows(job, tmp_path)
    trainer.on_rows_loaded()
    before = torch.get_rng_state()
    drawn = trainer.evaluate_rows(rows)
    assert trainer.evaluate_rows(rows) == drawn
    assert torch.equal(before, torch.get_rng_state())
    assert set(drawn) == {"loss", "reward_mean", "reward_std"}
    greedy = trainer.spec.method.model_copy(update={"eval_samples": 1})
    trainer.spec = trainer.spec.model_copy(update={"method": greedy, "seed": 8})
    trainer.on_rows_loaded()
    first = trainer.evaluate_rows(rows)
    trainer.spec = trainer.spec.model_copy(update={"seed": 9})
    trainer.on_rows_loaded()
    assert trainer.evaluate_rows(rows) == first
    assert first["reward_std"] == 0


@pytest.mark.skipif(not os.environ.get("FETTLE_TEST_LONG"), reason="FETTLE_TEST_LONG is not set")
@pytest.mark.slow
def test_two_processes_draw_and_train_what_one_does(tmp_path: Path, model: Path) -> None:
    """The last step of an epoch has one prompt, and nothing for the second process."""
    size = SMALL | {"rows": 5, "n_epochs": 1, "lora_dropout": 0.0}
    one, two = (job_of(tmp_path / name, model, **size) for name in ("one", "two"))
    two = changed(two, processes=ProcessesSpec(per_node=2))
    expected = run_here(one)
    code, log = train(two)
    assert code == ExitCode.OK, log
    assert log.count("best answer") == 0
    for row, expected_row in zip(step_metrics(two.spec), step_metrics(one.spec), strict=True):
        assert row == pytest.approx(expected_row, abs=1e-5)
    result = two.result()
    assert result is not None and expected is not None
    assert result.trained_tokens == expected.trained_tokens


def test_the_reference_of_a_continued_run_is_its_parent(
    tmp_path: Path, model: Path, whole: tuple[TrainingJob, JobResult]
) -> None:
    """At the first step the model is its reference, so that the divergence is 0, however much it weighs."""
    shutil.copytree(whole[0].folder.parent / "adapters", tmp_path / "adapters")
    losses = []
    for beta in (0.0, 100.0):
        job = job_of(tmp_path / f"beta-{beta}", model, lora_dropout=0.0, **(SMALL | {"beta": beta, "n_epochs": 1}))
        job = changed(job, parent_adapter_sha256=whole[1].adapter_sha256)
        run_here(job)
        losses.append([row["train_loss"] for row in step_metrics(job.spec)])
    assert losses[1][0] == pytest.approx(losses[0][0], abs=1e-4)
    assert losses[1][-1] > losses[0][-1] + 1e-3  # then it weighs


# --- graders that fail ------------------------------------------------------------------------------------------------


def test_a_grader_that_fails_for_every_answer_ends_the_run_with_its_error(tmp_path: Path, model: Path) -> None:
    grader = CHECK | {"reference": "{{item.missing}}"}
    job = job_of(tmp_path / "job", model, **(SMALL | {"grader": grader}))
    with pytest.raises(TrainingFailed, match=r"any answer of the last 3 steps.*item.missing.*graders/run") as failed:
        run_here(job)
    assert failed.value.error.code is ErrorCode.GRADER_FAILED
    assert failed.value.error.param == "method.reinforcement.grader"
    [ungraded] = [message for level, message in messages(job.spec) if level == "warn" and "16 of 16" in message]
    assert "item.missing" in ungraded


def test_a_grader_that_fails_for_every_answer_of_a_shorter_run_ends_it_too(tmp_path: Path, model: Path) -> None:
    job = job_of(
        tmp_path / "job", model, grader=CHECK | {"reference": "{{item.missing}}"}, rows=4, batch_size=4, n_epochs=1
    )
    with pytest.raises(TrainingFailed, match="the last 1 steps"):
        run_here(job)


def test_answers_that_cannot_be_graded_are_worth_0_and_told_once(tmp_path: Path, model: Path) -> None:
    grader = {
        "type": "multi",
        "graders": {"seen": CHECK | {"reference": "{{item.letter}}"}},
        "calculate_output": "1 / (1 - seen)",
    }
    job = job_of(tmp_path / "job", model, **(SMALL | {"grader": grader, "samples_per_prompt": 8}))
    assert run_here(job) is not None
    [(level, message)] = [each for each in messages(job.spec) if "grader failed" in each[1]]
    assert level == "warn" and "formula_parse_error" in message
    assert all(0 < row["train_reward_mean"] <= 1 for row in step_metrics(job.spec))


# --- the example ------------------------------------------------------------------------------------------------------


def test_the_committed_example_is_what_the_generator_makes_and_the_service_takes(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLE / "generate.py"), "--output", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    rows: list[bytes] = []
    for name in ("train", "validation", "held_out"):
        committed = (EXAMPLE / f"{name}.jsonl").read_bytes()
        assert (tmp_path / f"{name}.jsonl").read_bytes() == committed
        rows += committed.splitlines()
    for number, line in enumerate(rows, start=1):
        parse_row(line, number, "reinforcement")
    assert len(set(rows)) == len(rows)
    grader = json.loads((tmp_path / "grader.json").read_text())
    assert grader == json.loads((EXAMPLE / "grader.json").read_text())
    assert grader["source"] in (EXAMPLE.parents[1] / "docs" / "reinforcement.md").read_text()
