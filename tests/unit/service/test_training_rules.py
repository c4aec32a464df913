"""An adapter that training goes on from keeps its shape."""

from typing import Any

import pytest

from service.errors import InvalidRequest
from service.fine_tuning.training_extension import TrainingExtension
from service.fine_tuning.training_rules import asks_for_shape, check_shape
from tuning.adapter_manifest import AdapterFile, AdapterManifest

PARENT = AdapterManifest(
    base_model="m",
    base_revision=None,
    template_sha256="0" * 64,
    r=4,
    lora_alpha=12,
    target_modules=("k_proj", "q_proj"),
    files=(AdapterFile(name="adapter_config.json", bytes=1, sha256="0" * 64),),
)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"r": 4, "lora_alpha": 12, "use_rslora": False},
        {"target_modules": ["q_proj", "k_proj"]},
        {"adaptation": "qlora", "lora_dropout": 0.1},
        {"init_lora_weights": "default"},
    ],
    ids=str,
)
def test_its_own_shape_may_be_named(given: dict[str, Any]) -> None:
    check_shape(TrainingExtension(**given), PARENT, "ft:m")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"r": 8}, "8 is not 4"),
        ({"lora_alpha": 8}, "8 is not 12"),
        ({"use_rslora": True}, "True is not False"),
        ({"target_modules": ["q_proj"]}, "['k_proj', 'q_proj']"),
        ({"target_modules": "all-linear"}, "'all-linear' is not"),
        ({"init_lora_weights": "eva"}, "not made anew"),
    ],
    ids=str,
)
def test_another_shape_is_refused_by_name(given: dict[str, Any], told: str) -> None:
    extension = TrainingExtension(**given)
    assert asks_for_shape(extension)
    with pytest.raises(InvalidRequest) as refused:
        check_shape(extension, PARENT, "ft:m")
    assert refused.value.param == f"x_training.{next(iter(given))}"
    assert told in refused.value.message and "ft:m" in refused.value.message


def test_rslora_leaves_the_names_of_other_adapters_as_they_were() -> None:
    assert b"use_rslora" not in PARENT.to_json()
    scaled = PARENT.model_copy(update={"use_rslora": True})
    assert b'"use_rslora": true' in scaled.to_json()
    assert scaled.adapter_sha256 != PARENT.adapter_sha256
    assert AdapterManifest.model_validate_json(PARENT.to_json()) == PARENT
