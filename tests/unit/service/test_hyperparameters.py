"""From "auto" to numbers, each with its source."""

from typing import Any

import pytest

from service.fine_tuning.method_schemas import HYPERPARAMETERS
from service.fine_tuning.resolution import AskedTraining, ResolvedTraining, max_length, resolve
from service.fine_tuning.training_extension import TrainingExtension
from tuning.adapter_manifest import AdapterFile, AdapterManifest
from tuning.catalogue import CatalogueEntry
from tuning.contract import MethodName

ENTRY = CatalogueEntry(
    name="m", source="/m", context_length=512, stop_tokens=("</s>",), learning_rate=2e-4, batch_size=16
)
PARENT = AdapterManifest(
    base_model="m",
    base_revision=None,
    template_sha256="0" * 64,
    r=4,
    lora_alpha=12,
    use_rslora=True,
    target_modules=("k_proj", "q_proj"),
    files=(AdapterFile(name="adapter_config.json", bytes=1, sha256="0" * 64),),
)


def asked(method: MethodName, hyperparameters: dict[str, Any] | None = None, **extension: Any) -> AskedTraining:
    numbers = HYPERPARAMETERS[method].model_validate(hyperparameters or {}).model_dump()
    return AskedTraining(method, numbers, TrainingExtension(**extension))


def resolved(
    method: MethodName = "supervised",
    hyperparameters: dict[str, Any] | None = None,
    *,
    rows: int = 100,
    has_validation: bool = False,
    parent: AdapterManifest | None = None,
    **extension: Any,
) -> ResolvedTraining:
    question = asked(method, hyperparameters, **extension)
    return resolve(question, ENTRY, parent, rows=rows, has_validation=has_validation)


def values(training: ResolvedTraining) -> dict[str, Any]:
    return {name: each.value for name, each in training.values.items()}


@pytest.mark.parametrize("method", HYPERPARAMETERS)
@pytest.mark.parametrize(
    ("rows", "epochs", "batch_size"),
    [
        (10, 10, 1),  # 30 examples in three epochs would be under 100: 100 // 10
        (33, 3, 4),
        (34, 3, 4),
        (4, 25, 1),
        (1000, 3, 16),
        (8333, 3, 16),
        (8334, 2, 16),
        (100_000, 1, 16),
    ],
)
def test_auto_follows_openais_rule_for_epochs_and_keeps_steps_enough(
    method: MethodName, rows: int, epochs: int, batch_size: int
) -> None:
    numbers = resolved(method, rows=rows).hyperparameters
    assert (numbers["n_epochs"], numbers["batch_size"], numbers["learning_rate_multiplier"]) == (epochs, batch_size, 1)


def test_what_was_asked_for_stays() -> None:
    given = {"n_epochs": 2, "batch_size": 256, "learning_rate_multiplier": 0.1}
    training = resolved("supervised", given, rows=10, r=8, packing=False)
    assert training.hyperparameters == given
    assert {name: each.value for name, each in training.values.items() if each.source == "user"} == given | {
        "r": 8,
        "packing": False,
    }


def test_resolving_twice_changes_nothing() -> None:
    """A step that is taken again finds numbers where "auto" stood."""
    first = resolved("reinforcement", {"compute_multiplier": 0.5}, rows=50)
    again = resolve(
        AskedTraining("reinforcement", first.hyperparameters, TrainingExtension()),
        ENTRY,
        None,
        rows=50,
        has_validation=False,
    )
    assert (again.hyperparameters, values(again)) == (first.hyperparameters, values(first))


@pytest.mark.parametrize(
    ("method", "share"), [("supervised", 1), ("dpo", 0.1), ("kto", 0.1), ("orpo", 0.25), ("reinforcement", 0.1)]
)
def test_the_multiplier_multiplies_the_models_own_rate_for_the_method(method: MethodName, share: float) -> None:
    training = resolved(method, {"learning_rate_multiplier": 0.5})
    assert values(training)["learning_rate"] == pytest.approx(0.5 * share * 2e-4)
    assert values(resolved(method))["learning_rate"] == pytest.approx(share * 2e-4)


def test_an_absolute_rate_is_told_as_a_multiplier_too() -> None:
    training = resolved("dpo", learning_rate=4e-5)
    assert training.values["learning_rate"].source == "user"
    assert training.hyperparameters["learning_rate_multiplier"] == pytest.approx(2.0)


def test_an_adapter_that_training_goes_on_from_keeps_its_shape() -> None:
    training = values(resolved(parent=PARENT))
    assert (training["r"], training["lora_alpha"], training["use_rslora"]) == (4, 12, True)
    assert training["target_modules"] == ["k_proj", "q_proj"]
    assert "init_lora_weights" not in training


def test_alpha_follows_the_rank_that_was_asked_for() -> None:
    assert values(resolved(r=8))["lora_alpha"] == 16
    assert values(resolved(r=8, lora_alpha=5))["lora_alpha"] == 5


@pytest.mark.parametrize(
    ("multiplier", "samples", "expected"), [("auto", None, 8), (1.0, 5, 5), (0.01, None, 2), (2.5, 3, 8), (10, 64, 640)]
)
def test_compute_is_answers_for_each_prompt(multiplier: Any, samples: int | None, expected: int) -> None:
    training = resolved("reinforcement", {"compute_multiplier": multiplier}, samples_per_prompt=samples)
    assert values(training)["samples_per_prompt"] == expected


@pytest.mark.parametrize(
    ("extension", "prompt", "answer"),
    [
        ({}, 256, 256),
        ({"max_completion_tokens": 12}, 500, 12),
        ({"max_length": 500}, 500, 12),
        ({"max_length": 100}, 100, 256),
        ({"max_length": 100, "max_completion_tokens": 7}, 100, 7),
    ],
)
def test_a_prompt_and_its_answer_fit_the_context(extension: dict[str, int], prompt: int, answer: int) -> None:
    training = values(resolved("reinforcement", **extension))
    assert (training["max_length"], training["max_completion_tokens"]) == (prompt, answer)
    assert max_length(asked("reinforcement", **extension), ENTRY) == prompt


@pytest.mark.parametrize("method", ["supervised", "dpo", "orpo", "kto"])
def test_rows_may_be_as_long_as_the_context(method: MethodName) -> None:
    assert max_length(asked(method), ENTRY) == values(resolved(method))["max_length"] == 512
    assert max_length(asked(method, max_length=100), ENTRY) == 100


def test_the_best_step_is_kept_where_a_validation_file_tells_it() -> None:
    assert values(resolved(has_validation=True))["keep"] == "best"
    assert values(resolved(has_validation=True, keep="last"))["keep"] == "last"
    assert values(resolved())["keep"] == "last"


@pytest.mark.parametrize("method", HYPERPARAMETERS)
def test_every_value_tells_where_it_comes_from(method: MethodName) -> None:
    training = resolved(method)
    assert all(each.source == "auto" and each.because for each in training.values.values())
    assert "auto" not in {value for name, value in training.hyperparameters.items() if name != "reasoning_effort"}
