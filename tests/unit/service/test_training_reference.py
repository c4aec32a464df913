"""`docs/training.md` tells every key, its methods and its default, as they are."""

import re
from pathlib import Path

import pytest

from service.fine_tuning import defaults
from service.fine_tuning.hyperparameters import DpoHyperparameters, ReinforcementHyperparameters
from service.fine_tuning.resolution import AskedTraining, resolve
from service.fine_tuning.training_extension import TrainingExtension, stray_key
from tuning.catalogue import CatalogueEntry
from tuning.contract import MethodName

PAGE = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
METHODS: tuple[MethodName, ...] = ("supervised", "dpo", "orpo", "kto", "reinforcement")
ENTRY = CatalogueEntry(name="m", source="/m", context_length=4096, stop_tokens=("</s>",), learning_rate=1e-4)


def rows(heading: str) -> dict[str, list[str]]:
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {each[0].strip("`"): each[1:] for each in cells if each[0].startswith("`")}


def test_every_key_has_a_row() -> None:
    assert set(rows("`x_training`")) == set(TrainingExtension.model_fields)
    known = set(DpoHyperparameters.model_fields) | set(ReinforcementHyperparameters.model_fields)
    assert set(rows("OpenAI's hyperparameters")) == known


@pytest.mark.parametrize(
    ("name", "value"),
    [("beta", 0.1), ("samples_per_prompt", 4), ("kl_beta", 0.1), ("neftune_noise_alpha", 5.0), ("packing", True)],
)
def test_the_methods_of_a_key_are_those_that_it_is_not_refused_for(name: str, value: object) -> None:
    asked = TrainingExtension.model_validate({name: value})
    known = [method for method in METHODS if stray_key(asked, method) is None]
    told = rows("`x_training`")[name][0]
    assert (list(METHODS) if told == "all" else told.split(", ")) == known


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("supervised", "lr_scheduler_type"),
        ("supervised", "warmup_ratio"),
        ("supervised", "weight_decay"),
        ("supervised", "max_grad_norm"),
        ("kto", "beta"),
        ("orpo", "beta"),
        ("kto", "desirable_weight"),
        ("reinforcement", "samples_per_prompt"),
        ("reinforcement", "max_completion_tokens"),
        ("reinforcement", "temperature"),
        ("reinforcement", "kl_beta"),
    ],
)
def test_a_default_is_the_one_that_is_told(method: MethodName, name: str) -> None:
    resolved = resolve(AskedTraining(method, {}, TrainingExtension()), ENTRY, None, rows=1000, has_validation=False)
    told = rows("`x_training`")[name][1]
    assert re.split(r"[;,]", told)[0].strip("`") == str(resolved.values[name].value)


@pytest.mark.parametrize("method", METHODS)
def test_the_share_of_the_rate_is_the_one_that_is_told(method: MethodName) -> None:
    shares = dict(re.findall(r"^\| ([a-z, ]+) \| ([0-9.]+) \|", PAGE, re.MULTILINE))
    [told] = [share for methods, share in shares.items() if method in methods.split(", ")]
    assert float(told) == defaults.LEARNING_RATE_SHARE[method][0]
