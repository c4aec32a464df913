"""What was resolved is what a trainer is told: nothing is left out and nothing is added."""

from pathlib import Path
from typing import Any, cast

import pytest

from service.dispatcher.job_spec import job_spec
from service.dispatcher.parts import Parts
from service.fine_tuning.method_schemas import HYPERPARAMETERS
from service.fine_tuning.resolution import AskedTraining, resolve
from service.fine_tuning.training_extension import TrainingExtension
from service.object_storage.filesystem import FilesystemStorage
from service.settings import Settings
from tests.fixtures.databases import job_row
from tests.fixtures.rows import chat_rows, to_jsonl
from tuning.catalogue import DEFAULT_CATALOGUE, Catalogue
from tuning.contract import DpoSpec, JobSpec, KtoSpec, MethodName, OrpoSpec, ReinforcementSpec, SupervisedSpec
from tuning.data.receipt import make_receipt
from tuning.data.rendering import ChatRenderer
from tuning.resources import TrainingResources

CATALOGUE = Catalogue.load(DEFAULT_CATALOGUE)
ENTRY = CATALOGUE.models[0]
GRADER = {"type": "string_check", "input": "{{sample.output_text}}", "reference": "x", "operation": "eq"}
RECEIPT = make_receipt([to_jsonl(chat_rows(40))], ChatRenderer.from_entry(ENTRY)).model_dump(mode="json")


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    nothing = cast(Any, None)
    return Parts(
        settings=Settings(data_dir=tmp_path),
        catalogue=CATALOGUE,
        sessions=nothing,
        storage=FilesystemStorage(tmp_path),
        executor=nothing,
        telemetry=nothing,
        warm=None,
        evaluator=nothing,
    )


def spec_of(parts: Parts, method: MethodName, extension: dict[str, Any], **numbers: Any) -> JobSpec:
    hyperparameters = HYPERPARAMETERS[method].model_validate(numbers).model_dump()
    if method == "reinforcement":
        hyperparameters["grader"] = GRADER
    asked = AskedTraining(method, hyperparameters, TrainingExtension(**extension))
    resolved = resolve(asked, ENTRY, None, rows=40, has_validation=True)
    job = job_row(
        base_model=ENTRY.name,
        method_type=method,
        hyperparameters=resolved.hyperparameters,
        x_resolved={name: value.model_dump() for name, value in resolved.values.items()},
        training_receipt=RECEIPT,
        integrations=[],
        attempt=1,
    )
    return job_spec(job, parts, None, TrainingResources())


def test_every_key_of_the_extension_reaches_the_trainer(parts: Parts) -> None:
    spec = spec_of(
        parts,
        "supervised",
        {
            "adaptation": "qlora",
            "r": 4,
            "lora_alpha": 6,
            "lora_dropout": 0.1,
            "target_modules": ["q_proj"],
            "use_rslora": True,
            "init_lora_weights": "eva",
            "learning_rate": 3e-4,
            "lr_scheduler_type": "cosine",
            "warmup_ratio": 0.1,
            "weight_decay": 0.01,
            "max_grad_norm": 0.5,
            "neftune_noise_alpha": 5.0,
            "max_length": 100,
            "packing": False,
            "gradient_checkpointing": True,
            "precision": "bfloat16",
            "keep": "last",
            "eval_steps": 7,
            "early_stopping_patience": 2,
        },
        n_epochs=2,
        batch_size=5,
    )
    assert spec.method == SupervisedSpec(
        n_epochs=2,
        batch_size=5,
        learning_rate=3e-4,
        lr_scheduler_type="cosine",
        warmup_ratio=0.1,
        weight_decay=0.01,
        max_grad_norm=0.5,
        neftune_noise_alpha=5.0,
        max_length=100,
        packing=False,
        gradient_checkpointing="on",
    )
    assert spec.lora.model_dump() == {
        "r": 4,
        "lora_alpha": 6,
        "lora_dropout": 0.1,
        "target_modules": ("q_proj",),
        "use_rslora": True,
        "init": "eva",
        "quantization": "nf4",
    }
    assert spec.selection.model_dump() == {"keep": "last", "eval_steps": 7, "early_stopping_patience": 2}
    assert spec.base_model.dtype == "bfloat16"


def test_preferences_have_their_own_numbers(parts: Parts) -> None:
    dpo = spec_of(parts, "dpo", {}, beta=0.3).method
    assert isinstance(dpo, DpoSpec) and dpo.beta == 0.3
    assert dpo.learning_rate == pytest.approx(ENTRY.learning_rate / 10)
    orpo = spec_of(parts, "orpo", {"method": "orpo", "beta": 0.2, "gradient_checkpointing": False}).method
    assert isinstance(orpo, OrpoSpec) and (orpo.beta, orpo.gradient_checkpointing) == (0.2, "off")
    kto = spec_of(parts, "kto", {"method": "kto", "desirable_weight": 1.5}).method
    assert isinstance(kto, KtoSpec) and (kto.beta, kto.desirable_weight, kto.undesirable_weight) == (0.1, 1.5, 1.0)


def test_reinforcement_has_its_grader_and_its_answers(parts: Parts) -> None:
    extension = {"samples_per_prompt": 6, "max_completion_tokens": 20, "temperature": 0.7, "kl_beta": 0.02}
    method = spec_of(parts, "reinforcement", extension, eval_samples=3, batch_size=4).method
    assert isinstance(method, ReinforcementSpec)
    assert method.grader == GRADER
    assert (method.samples_per_prompt, method.max_completion_tokens, method.temperature) == (6, 20, 0.7)
    assert (method.beta, method.eval_interval, method.eval_samples) == (0.02, 10, 3)
    assert method.max_length == ENTRY.context_length - 20


def test_a_job_that_the_release_before_validated_trains_as_it_would_have(parts: Parts) -> None:
    numbers = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
    job = job_row(base_model=ENTRY.name, hyperparameters=numbers, training_receipt=RECEIPT, integrations=[], attempt=1)
    spec = job_spec(job, parts, None, TrainingResources())
    assert spec.method.learning_rate == pytest.approx(ENTRY.learning_rate * 0.5)
    assert (spec.method.n_epochs, spec.method.batch_size, spec.method.packing) == (2, 4, True)
    assert (spec.lora.r, spec.selection.keep, spec.method.max_length) == (ENTRY.lora.r, "last", ENTRY.context_length)
