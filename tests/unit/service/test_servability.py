"""What vLLM would not load is refused before anything is trained, with the field and the remedy."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from service.fine_tuning.servability import Wanted, refusal
from service.fine_tuning.served_architectures import EXPERT_ARCHITECTURES, SERVED_ARCHITECTURES
from tests.fixtures.vllm_source import has_experts, serves_lora, text_architectures
from tuning.catalogue import DEFAULT_CATALOGUE, Catalogue, CatalogueError

SERVABLE = Wanted(
    base="m",
    architecture="LlamaForCausalLM",
    max_lora_rank=16,
    adaptation="lora",
    r=16,
    target_modules="all-linear",
    linear_modules=("q_proj", "k_proj", "up_proj"),
)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"adaptation": "qlora"},
        {"target_modules": ["q_proj", "up_proj"]},
        {"target_modules": ["anything"], "linear_modules": None},
        {"architecture": None},
        {"architecture": "MixtralForCausalLM", "target_modules": ["q_proj"]},
    ],
    ids=str,
)
def test_what_vllm_loads_is_let_through(change: dict[str, Any]) -> None:
    assert refusal(replace(SERVABLE, **change)) is None


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"adaptation": "dora"}, "x_training.adaptation", ["dora", "use_rslora"]),
        ({"adaptation": "full"}, "x_training.adaptation", ["whole model", "up to 16"]),
        ({"architecture": "GPT2LMHeadModel"}, "model", ["GPT2LMHeadModel", "operator"]),
        ({"architecture": ""}, "model", ["without an architecture"]),
        ({"r": 17}, "x_training.r", ["17", "16", "max_lora_rank"]),
        (
            {"target_modules": ["q_proj", "lm_head"]},
            "x_training.target_modules",
            ["lm_head", "k_proj, q_proj, up_proj"],
        ),
        ({"target_modules": ["embed_tokens"], "linear_modules": None}, "x_training.target_modules", ["all-linear"]),
        ({"target_modules": ["norm"]}, "x_training.target_modules", ["norms"]),
        ({"target_modules": ["wq"]}, "x_training.target_modules", ["'wq'", "k_proj, q_proj, up_proj"]),
        ({"architecture": "MixtralForCausalLM"}, "x_training.target_modules", ["experts", "q_proj"]),
        (
            {"architecture": "MixtralForCausalLM", "target_modules": ["w1"], "linear_modules": None},
            "x_training.target_modules",
            ["'w1'", "experts"],
        ),
    ],
    ids=str,
)
def test_what_vllm_would_not_load_is_refused(change: dict[str, Any], param: str, words: list[str]) -> None:
    reason = refusal(replace(SERVABLE, **change))
    assert reason is not None
    assert reason.param == param
    assert all(word in reason.message for word in words), reason.message


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed on this system")
def test_the_table_of_architectures_is_the_installed_vllms() -> None:
    there = text_architectures()
    assert {name for name, (module, kind) in there.items() if serves_lora(module, kind)} == SERVED_ARCHITECTURES
    assert EXPERT_ARCHITECTURES < SERVED_ARCHITECTURES
    experts = {name for name in SERVED_ARCHITECTURES if has_experts(there[name][0])}
    assert {name for name in experts if "moe" in name.lower()} <= EXPERT_ARCHITECTURES


def test_a_rank_that_would_not_be_served_is_no_catalogues_default() -> None:
    entry = Catalogue.load(DEFAULT_CATALOGUE).models[0]
    with pytest.raises(ValueError, match="max_lora_rank"):
        type(entry).model_validate(entry.model_dump() | {"max_lora_rank": 8})


def test_the_architecture_is_read_from_the_models_configuration(tmp_path: Path) -> None:
    entry = Catalogue.load(DEFAULT_CATALOGUE).models[0]
    assert entry.is_fetched
    assert entry.architecture == "LlamaForCausalLM"
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CatalogueError, match="no architecture"):
        _ = type(entry).model_validate(entry.model_dump() | {"source": str(tmp_path)}).architecture
