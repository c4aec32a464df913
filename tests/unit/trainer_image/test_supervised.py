from pathlib import Path

import pytest
import torch

from tests.fixtures.tiny_model import build_tiny_model
from tests.fixtures.training_job import TrainingJob, write_job
from trainer_image.collation import StepCollator
from trainer_image.data import load_rows
from trainer_image.methods.step_trainer import StepTrainer, build
from trainer_image.methods.supervised import SupervisedTrainer
from trainer_image.model import load_model, load_renderer


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    model = tmp_path_factory.mktemp("model")
    build_tiny_model(model)
    return write_job(tmp_path_factory.mktemp("jobs") / "job", model, rows=20, packing=False)


def trainer_for(job: TrainingJob, folder: Path) -> StepTrainer:
    tokenizer, renderer = load_renderer(job.spec)
    rows, _ = load_rows(job.spec.training_data, renderer, folder / "rows.arrow", "training_file")
    lora = job.spec.lora.model_copy(update={"lora_dropout": 0.0})
    return build(
        SupervisedTrainer,
        job.spec,
        load_model(job.spec.model_copy(update={"lora": lora}), folder),
        tokenizer,
        rows,
        folder,
    )


def weights(trainer: StepTrainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def test_every_lora_weight_moves_and_no_base_weight_does(job: TrainingJob, tmp_path: Path) -> None:
    trainer = trainer_for(job, tmp_path)
    before = weights(trainer)
    trainer.train()
    moved = {name for name, weight in weights(trainer).items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if ".lora_" in name}


def test_splitting_and_packing_a_step_change_its_memory_and_not_its_result(job: TrainingJob, tmp_path: Path) -> None:
    results = []
    for number, collator in enumerate([StepCollator(False, 100_000), StepCollator(False, 1), StepCollator(True, 150)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        trainer = trainer_for(job, folder)
        trainer.data_collator = collator
        trainer.train()
        results.append((weights(trainer), trainer.step_metrics))
    (whole, metrics), *others = results
    for split, split_metrics in others:
        assert split_metrics == pytest.approx(metrics, rel=1e-4)
        for name, weight in whole.items():
            torch.testing.assert_close(split[name], weight, rtol=1e-3, atol=1e-4)


def test_validation_is_weighted_by_token(job: TrainingJob, tmp_path: Path) -> None:
    trainer = trainer_for(job, tmp_path)
    rows = trainer.train_dataset
    tokens = [int((labels[1:] >= 0).sum()) for labels in rows["labels"]]
    assert len(set(tokens)) > 1
    losses = [trainer.evaluate_rows(rows.select([index]))["loss"] for index in range(len(rows))]
    by_token = sum(loss * count for loss, count in zip(losses, tokens, strict=True)) / sum(tokens)
    assert trainer.evaluate_rows(rows)["loss"] == pytest.approx(by_token, rel=1e-5)
