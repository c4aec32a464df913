"""Every way to put LoRA on a base: it learns, the base stays as it is, and what is saved is plain LoRA."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.fixtures.tiny_model import build_tiny_model
from tests.fixtures.training_job import TrainingJob, write_job
from tests.fixtures.training_run import next_attempt, run_here
from trainer_image.checkpoints import publish_adapter
from trainer_image.data import load_rows
from trainer_image.errors import TrainingFailed
from trainer_image.eva import start_from_activations
from trainer_image.methods.step_trainer import StepTrainer, build
from trainer_image.methods.supervised import SupervisedTrainer
from trainer_image.model import load_model, load_renderer
from tuning.contract import JobSpec

Change = Callable[[JobSpec], JobSpec]


def with_lora(**changes: Any) -> Change:
    return lambda spec: spec.model_copy(update={"lora": spec.lora.model_copy(update=changes)})


def with_method(**changes: Any) -> Change:
    return lambda spec: spec.model_copy(update={"method": spec.method.model_copy(update=changes)})


def in_bfloat16(spec: JobSpec) -> JobSpec:
    return spec.model_copy(update={"base_model": spec.base_model.model_copy(update={"dtype": "bfloat16"})})


WAYS: dict[str, Change] = {
    "rslora": with_lora(use_rslora=True),
    "some modules": with_lora(target_modules=("q_proj", "down_proj")),
    "eva": with_lora(init="eva"),
    "qlora": with_lora(quantization="nf4"),
    "qlora from eva in bfloat16": lambda spec: in_bfloat16(with_lora(quantization="nf4", init="eva")(spec)),
    "bfloat16": in_bfloat16,
    "neftune": with_method(neftune_noise_alpha=5.0),
    "schedule": with_method(lr_scheduler_type="constant_with_warmup", weight_decay=0.1, max_grad_norm=0.1),
    "gradient checkpointing": with_method(gradient_checkpointing="on"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_tiny_model(folder)
    return folder


@pytest.fixture
def job(tmp_path: Path, model: Path) -> TrainingJob:
    return write_job(tmp_path / "job", model, rows=10)


def trainer_for(spec: JobSpec, folder: Path) -> StepTrainer:
    folder.mkdir(exist_ok=True)
    tokenizer, renderer = load_renderer(spec)
    rows, _ = load_rows(spec.training_data, renderer, folder / "rows.arrow", "training_file")
    return build(SupervisedTrainer, spec, load_model(spec, folder), tokenizer, rows, folder)


def parameters(trainer: StepTrainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, model: Path) -> str:
    job = write_job(tmp_path_factory.mktemp("plain") / "job", model, rows=10)
    trainer = trainer_for(job.spec, job.folder)
    trainer.train()
    return publish_adapter(trainer.model, job.spec, job.folder / "adapter")


@pytest.mark.parametrize("way", WAYS)
def test_every_lora_weight_moves_and_no_base_weight_does(
    job: TrainingJob, tmp_path: Path, way: str, plain: str
) -> None:
    spec = WAYS[way](job.spec)
    trainer = trainer_for(spec, tmp_path / "work")
    if spec.lora.init == "eva":
        start_from_activations(trainer, spec)
    before = parameters(trainer)
    trainer.train()
    after = parameters(trainer)
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if ".lora_" in name} != set()

    sha256 = publish_adapter(trainer.model, spec, tmp_path / "adapter")  # which checks that vLLM would serve it
    assert (sha256 == plain) == (way == "gradient checkpointing"), "what is set has no effect"
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert len(tensors) == len(moved) and {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (4, 8, spec.lora.use_rslora)
    assert config["init_lora_weights"] is True and not config["rank_pattern"] and not config["eva_config"]


def test_gradient_checkpointing_changes_no_result(job: TrainingJob, tmp_path: Path) -> None:
    """With dropout and noise, which must be drawn again as they were."""
    assert job.spec.lora.lora_dropout > 0
    trainers = []
    for setting in ("off", "on"):
        spec = with_method(gradient_checkpointing=setting, neftune_noise_alpha=5.0)(job.spec)
        trainers.append(trainer_for(spec, tmp_path / setting))
        trainers[-1].train()
    assert [trainer.model.get_base_model().is_gradient_checkpointing for trainer in trainers] == [False, True]
    expected = parameters(trainers[0])
    for name, weight in parameters(trainers[1]).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6)


def test_neftune_adds_noise_in_training_alone(job: TrainingJob, tmp_path: Path) -> None:
    spec = with_lora(lora_dropout=0.0)(with_method(neftune_noise_alpha=50.0, n_epochs=1)(job.spec))
    trainer = trainer_for(spec, tmp_path / "noisy")
    quiet = trainer_for(with_method(neftune_noise_alpha=None)(spec), tmp_path / "quiet")
    losses = []
    for each in (trainer, quiet):
        each.train()
        losses.append(each.step_metrics["loss"])
    assert losses[0] != losses[1]
    rows = trainer.train_dataset
    assert trainer.evaluate_rows(rows) == trainer.evaluate_rows(rows)


def test_eva_starts_where_activations_point_and_answers_as_the_base(job: TrainingJob, tmp_path: Path) -> None:
    spec = with_lora(init="eva", lora_dropout=0.0)(job.spec)
    trainer = trainer_for(spec, tmp_path / "work")
    rows = trainer.train_dataset
    base = trainer.evaluate_rows(rows)
    before = parameters(trainer)
    start_from_activations(trainer, spec)
    after = parameters(trainer)
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        name for name in after if ".lora_A" in name
    }
    assert trainer.evaluate_rows(rows) == base
    for name, weight in after.items():
        if ".lora_A" in name:  # directions, each of length 1 and across the others
            torch.testing.assert_close(weight @ weight.T, torch.eye(4), rtol=0, atol=1e-4)
    q, k = (after[f"base_model.model.model.layers.0.self_attn.{m}_proj.lora_A.default.weight"] for m in "qk")
    assert torch.equal(q, k)  # they are fed the same


def test_eva_with_too_few_tokens_for_the_rank_is_refused(tmp_path: Path, model: Path) -> None:
    job = write_job(tmp_path / "job", model, rows=1)
    spec = with_lora(init="eva", r=64)(job.spec)
    with pytest.raises(TrainingFailed, match=r"eva needs training rows of 128 tokens") as raised:
        start_from_activations(trainer_for(spec, tmp_path / "work"), spec)
    assert raised.value.error.param == "x_training.init_lora_weights"


def test_validation_changes_no_gradient_on_a_quantised_base(job: TrainingJob, tmp_path: Path) -> None:
    """bitsandbytes loses them on some CPUs, once a layer has been evaluated."""
    spec = in_bfloat16(with_lora(quantization="nf4", lora_dropout=0.0)(job.spec))
    trainers = [trainer_for(spec, tmp_path / name) for name in ("validated", "not")]
    trainers[0].evaluate_rows(trainers[0].train_dataset)
    for trainer in trainers:
        trainer.train()
    validated, expected = (parameters(trainer) for trainer in trainers)
    assert [name for name in expected if not torch.equal(validated[name], expected[name])] == []


@pytest.mark.parametrize("way", ["qlora from eva in bfloat16", "neftune"])
def test_a_resumed_run_ends_with_the_same_adapter(job: TrainingJob, tmp_path: Path, way: str) -> None:
    spec = WAYS[way](job.spec)
    whole = run_here(job, spec.model_copy(update={"output_uri": (tmp_path / "whole").as_uri()}))
    assert run_here(job, spec, stop_after=3) is None
    resumed = run_here(job, next_attempt(spec))
    assert whole is not None and resumed is not None and resumed.adapter_sha256 == whole.adapter_sha256


def test_training_goes_on_from_an_rslora_adapter(job: TrainingJob, tmp_path: Path) -> None:
    spec = with_lora(use_rslora=True)(job.spec)
    parent = run_here(job, spec)
    assert parent is not None
    on = spec.model_copy(
        update={"parent_adapter_sha256": parent.adapter_sha256, "output_uri": (tmp_path / "on").as_uri()}
    )
    child = run_here(job, with_lora(quantization="nf4", init="eva")(on))  # it starts from the parent all the same
    assert child is not None and child.adapter_sha256 != parent.adapter_sha256
    with pytest.raises(TrainingFailed, match="rsLoRA"):
        run_here(job, with_lora(use_rslora=False)(on))
