"""A step that does not fit is done again with less memory, once; the torch that runs out of it is the real one."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.tiny_model import build_tiny_model
from tests.fixtures.training_job import TrainingJob, write_job
from tests.fixtures.training_run import run_here
from trainer_image.data import load_rows
from trainer_image.errors import TrainingFailed, as_exhaustion
from trainer_image.methods.step_trainer import StepTrainer, build
from trainer_image.methods.supervised import SupervisedTrainer
from trainer_image.model import load_model, load_renderer
from tuning.contract import ErrorCode, JobSpec

TOKENS = 200
"""In a micro-batch: a step of 8 rows has several."""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    model = tmp_path_factory.mktemp("model")
    build_tiny_model(model)
    job = write_job(tmp_path_factory.mktemp("jobs") / "job", model, rows=20, n_epochs=1, neftune_noise_alpha=5.0)
    assert job.spec.lora.lora_dropout > 0
    return job


def trainer_for(spec: JobSpec, folder: Path) -> StepTrainer:
    folder.mkdir()
    tokenizer, renderer = load_renderer(spec)
    rows, _ = load_rows(spec.training_data, renderer, folder / "rows.arrow", "training_file")
    trainer = build(SupervisedTrainer, spec, load_model(spec, folder), tokenizer, rows, folder)
    trainer.data_collator.tokens_per_micro_batch = TOKENS
    return trainer


def allocate_more_than_there_is() -> None:
    torch.empty(1 << 58)


def running_out(calls: tuple[int, ...], run_out: Callable[[], None] = allocate_more_than_there_is) -> Any:
    """`score` that fails in these of its calls, after it has drawn its random numbers."""
    score, count = SupervisedTrainer.score, 0

    def failing(self: SupervisedTrainer, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        scored = score(self, *arguments)
        if count in calls:
            run_out()
        return scored

    return failing


def lora(trainer: StepTrainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in trainer.model.named_parameters() if weight.requires_grad}


def test_a_step_done_again_is_one_that_had_been_so_from_the_start(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = job.spec.method.model_copy(update={"gradient_checkpointing": "on"})
    expected = trainer_for(job.spec.model_copy(update={"method": on}), tmp_path / "expected")
    expected.data_collator.tokens_per_micro_batch = TOKENS // 2
    expected.train()

    trainer = trainer_for(job.spec, tmp_path / "trainer")
    monkeypatch.setattr(SupervisedTrainer, "score", running_out((2,)))
    trainer.train()
    assert trainer.has_less_room and trainer.data_collator.tokens_per_micro_batch == TOKENS // 2
    assert trainer.model.get_base_model().is_gradient_checkpointing
    assert trainer.state.num_input_tokens_seen == expected.state.num_input_tokens_seen
    for name, weight in lora(trainer).items():
        assert torch.equal(weight, lora(expected)[name]), name


def test_the_second_time_the_job_fails_and_says_what_would_fit(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_for(job.spec, tmp_path / "trainer")
    monkeypatch.setattr(SupervisedTrainer, "score", running_out((2, 7)))
    with pytest.raises(TrainingFailed) as raised:
        trainer.train()
    error = raised.value.error
    assert (error.code, error.param) == (ErrorCode.OUT_OF_MEMORY, "x_training.max_length")
    longest = max(len(ids) for ids in trainer.train_dataset["input_ids"])
    assert int(re.findall(r"of the step has (\d+) tokens", error.message)[0]) <= longest
    for remedy in ("x_training.max_length to", "x_training.precision to bfloat16", "x_training.adaptation to qlora"):
        assert remedy in error.message


def test_a_run_tells_that_it_makes_do_with_less(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SupervisedTrainer, "score", running_out((2,)))
    result = run_here(job)
    assert result is not None and result.error is None
    [message] = [event for event in job.events() if event["type"] == "message"]
    assert message["level"] == "warn" and message["message"].startswith("Step 2 ran out of memory")


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down() -> None:
        raise RuntimeError("a shape does not fit")

    trainer = trainer_for(job.spec, tmp_path / "trainer")
    monkeypatch.setattr(SupervisedTrainer, "score", running_out((2,), break_down))
    with pytest.raises(RuntimeError, match="a shape"):
        trainer.train()


def test_what_is_set_already_is_not_advised(job: TrainingJob) -> None:
    spec = job.spec.model_copy(
        update={
            "base_model": job.spec.base_model.model_copy(update={"dtype": "bfloat16"}),
            "lora": job.spec.lora.model_copy(update={"quantization": "nf4"}),
        }
    )
    failure = as_exhaustion(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), spec)
    assert failure is not None
    message = failure.error.message
    assert "qlora" not in message and "precision" not in message and "x_training.max_length to 48" in message
