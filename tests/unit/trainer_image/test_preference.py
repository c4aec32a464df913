"""DPO, ORPO and KTO: what they learn, and that nothing but the rows decides about it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.tiny_model import build_tiny_model, publish_random_adapter, tiny_entry
from tests.fixtures.training_job import TrainingJob, events_in, write_job
from tests.fixtures.training_run import build_trainer, folder_of, load_validation_rows, next_attempt, run_here
from trainer_image.errors import TrainingFailed
from trainer_image.methods.step_trainer import StepTrainer
from tuning.contract import ErrorCode, LoraSpec, MethodName

METHODS: tuple[MethodName, ...] = ("dpo", "orpo", "kto")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_tiny_model(folder)
    return folder


def job_of(folder: Path, model: Path, method: MethodName, *, lora_dropout: float = 0.0, **changes: Any) -> TrainingJob:
    job = write_job(folder / "job", model, method=method, **changes)
    lora = job.spec.lora.model_copy(update={"lora_dropout": lora_dropout})
    return TrainingJob(job.spec.model_copy(update={"lora": lora}), job.folder)


def weights(trainer: StepTrainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_held_out_answers_are_told_apart_and_only_lora_weights_move(
    tmp_path: Path, model: Path, method: MethodName
) -> None:
    job = job_of(tmp_path, model, method, rows=24, validation_rows=12, n_epochs=4)
    trainer = build_trainer(job, tmp_path)
    held_out = load_validation_rows(job, tmp_path)
    trainer.on_rows_loaded()
    before, untrained = weights(trainer), trainer.evaluate_rows(held_out)
    trainer.train()
    moved = {name for name, weight in weights(trainer).items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if ".lora_" in name}
    trained = trainer.evaluate_rows(held_out)
    assert trained["loss"] < untrained["loss"]
    assert trained["reward_accuracy"] == 1.0
    assert trained["reward_margin"] > untrained["reward_margin"] + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_splitting_and_packing_a_step_change_its_memory_and_not_its_result(
    tmp_path: Path, model: Path, method: MethodName
) -> None:
    results = []
    for number, (packing, tokens) in enumerate([(False, 100_000), (False, 1), (True, 300)]):
        folder = tmp_path / str(number)
        job = job_of(folder, model, method, rows=12, validation_rows=9, packing=packing)
        trainer = build_trainer(job, folder)
        trainer.data_collator.tokens_per_micro_batch = tokens
        trainer.on_rows_loaded()
        trainer.train()
        on_validation = trainer.evaluate_rows(load_validation_rows(job, folder))
        results.append((weights(trainer), trainer.step_metrics, on_validation))
    (whole, *metrics), *others = results
    for split, *split_metrics in others:
        for actual, expected in zip(split_metrics, metrics, strict=True):
            assert actual == pytest.approx(expected, rel=1e-3)
        for name, weight in whole.items():
            torch.testing.assert_close(split[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_ends_with_the_same_adapter_and_metrics(tmp_path: Path, model: Path, method: MethodName) -> None:
    jobs = [
        job_of(tmp_path / name, model, method, lora_dropout=0.1, rows=18, validation_rows=5)
        for name in ("whole", "stopped")
    ]
    whole = run_here(jobs[0])
    assert run_here(jobs[1], stop_after=4) is None
    spec = next_attempt(jobs[1].spec)
    resumed = run_here(jobs[1], spec)
    assert whole is not None and resumed is not None
    assert resumed.adapter_sha256 == whole.adapter_sha256
    csv = (folder_of(spec) / "step_metrics.csv").read_text()
    assert csv == (folder_of(jobs[0].spec) / "step_metrics.csv").read_text()
    assert len(csv.splitlines()) == 1 + 6
    [started] = [event for event in events_in(folder_of(spec)) if event["type"] == "started"]
    assert started["resumed_step"] == 4


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_diverges_fails_and_says_so(tmp_path: Path, model: Path, method: MethodName) -> None:
    job = job_of(tmp_path, model, method, rows=12, learning_rate=1e30, max_grad_norm=0.0)
    with pytest.raises(TrainingFailed) as failure:
        run_here(job)
    assert failure.value.error.code is ErrorCode.DIVERGED
    assert "step" in str(failure.value) and "nan" in str(failure.value)


# --- the reference ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_a_parent_adapter_is_the_reference_of_what_goes_on_from_it(
    tmp_path: Path, model: Path, method: MethodName
) -> None:
    job = job_of(tmp_path, model, method, rows=12, validation_rows=6)
    parent = publish_random_adapter(tmp_path / "adapters", tiny_entry(model), 3)
    lora = LoraSpec(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=("down_proj",))
    spec = job.spec.model_copy(
        update={"parent_adapter_sha256": parent, "lora": lora, "adapters_uri": (tmp_path / "adapters").as_uri()}
    )
    job = TrainingJob(spec, job.folder)
    held_out = load_validation_rows(job, tmp_path)

    def built(name: str) -> StepTrainer:
        (tmp_path / name).mkdir()
        trainer = build_trainer(job, tmp_path / name)
        trainer.on_rows_loaded()
        return trainer

    trainer, later = built("first"), built("later")
    at_start = trainer.evaluate_rows(held_out)
    assert at_start["loss"] == pytest.approx(math.log(2) if method == "dpo" else 0.5, abs=1e-6)
    trainer.train()
    later.train()
    # asked for after the training only, the reference is what it was before
    trained = trainer.evaluate_rows(held_out)
    assert later.evaluate_rows(held_out) == trained
    assert trained["loss"] < at_start["loss"] - 0.005
    assert all(torch.equal(weight, weights(trainer)[name]) for name, weight in weights(later).items())
