import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from trainer_image.adapter_check import check_servable
from trainer_image.errors import TrainingFailed
from tuning.contract import ErrorCode

LINEARS = {"model.layers.0.q_proj": (8, 16)}
MODULE = "base_model.model.model.layers.0.q_proj"
CONFIG = {"peft_type": "LORA", "r": 2, "bias": "none", "use_dora": False, "modules_to_save": None}
Tensors = dict[str, torch.Tensor]


def tensors() -> Tensors:
    return {f"{MODULE}.lora_A.weight": torch.ones(2, 16), f"{MODULE}.lora_B.weight": torch.ones(8, 2)}


def check(folder: Path, tensors: Tensors, **config: Any) -> None:
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    check_servable(folder, LINEARS)


@pytest.mark.parametrize("config", [{}, {"use_rslora": True}, {"init_lora_weights": True}], ids=str)
def test_plain_lora_is_servable(tmp_path: Path, config: dict[str, Any]) -> None:
    check(tmp_path, tensors(), **config)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": 1024}, "rank"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"init_lora_weights": "pissa"}, "changes the base"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"lora_bias": True}, "lora_bias"),
    ],
)
def test_settings_that_vllm_refuses_are_refused(tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    with pytest.raises(TrainingFailed, match=reason) as raised:
        check(tmp_path, tensors(), **config)
    assert raised.value.error.code is ErrorCode.ADAPTER_NOT_SERVABLE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t | {"base_model.model.lm_head.lora_A.weight": torch.ones(2, 16)}, "lm_head"),
        (lambda t: t | {f"{MODULE}.lora_magnitude_vector": torch.ones(8)}, "magnitude"),
        (lambda t: t | {f"{MODULE}.lora_B.weight": torch.ones(9, 2)}, r"\[9, 2\], not \[8, 2\]"),
        (lambda t: t | {f"{MODULE}.lora_B.weight": torch.full((8, 2), float("nan"))}, "finite"),
        (lambda t: {f"{MODULE}.lora_A.weight": torch.ones(2, 16)}, "has no .*lora_B"),
        (lambda t: {}, "no tensors"),
    ],
)
def test_tensors_that_vllm_refuses_or_ignores_are_refused(
    tmp_path: Path, change: Callable[[Tensors], Tensors], reason: str
) -> None:
    with pytest.raises(TrainingFailed, match=reason):
        check(tmp_path, change(tensors()))
