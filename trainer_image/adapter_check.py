"""Is this adapter one that vLLM will load? Asked of the saved files, before anybody is told that the job succeeded.

vLLM serves plain LoRA on linear layers, also with rsLoRA's scale. It refuses DoRA, biases, `modules_to_save`, large
ranks and starts that change the base when the first request comes, and ignores some tensors without a word (checked
against vLLM 0.32).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from trainer_image.errors import TrainingFailed
from tuning.contract import ErrorCode

MAX_RANK = 512
"""The largest that vLLM's `--max-lora-rank` takes."""
TENSOR_PREFIX = "base_model.model."


PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Of `init_lora_weights`: those that leave the base as it is."""
UNSERVED = ("use_dora", "modules_to_save", "lora_bias", "alora_invocation_tokens", "layer_replication", "use_bdlora")
UNSERVED_HERE = ("rank_pattern", "alpha_pattern", "use_qalora", "trainable_token_indices", "target_parameters")
"""Not what a manifest tells: one rank and one scale for all modules, whose weights are all there is."""


def check_servable(folder: Path, linear_shapes: Mapping[str, tuple[int, int]]) -> None:
    """`linear_shapes`: (out, in) of the base model's linear layers by module path, without its output head.

    Raises TrainingFailed with every reason at once.
    """
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    reasons = [*_config_reasons(config), *_tensor_reasons(folder / "adapter_model.safetensors", config, linear_shapes)]
    if reasons:
        raise TrainingFailed(
            ErrorCode.ADAPTER_NOT_SERVABLE, f"The adapter was trained but vLLM cannot serve it: {'; '.join(reasons)}."
        )


def _config_reasons(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("peft_type") != "LORA":
        yield f"peft_type is {config.get('peft_type')}, not LORA"
    for name in (*UNSERVED, *UNSERVED_HERE):
        if config.get(name):
            yield f"{name} is {config[name]}"
    if config.get("init_lora_weights", True) not in PLAIN_STARTS:
        yield f"init_lora_weights is {config['init_lora_weights']!r}, which changes the base"
    if config.get("bias") != "none":
        yield f"bias is {config.get('bias')!r}, not 'none'"
    if not 1 <= int(config.get("r", 0)) <= MAX_RANK:
        yield f"the rank r is {config.get('r')}, outside 1…{MAX_RANK}"


def _tensor_reasons(
    path: Path, config: Mapping[str, Any], linear_shapes: Mapping[str, tuple[int, int]]
) -> Iterator[str]:
    rank = config.get("r")
    with safe_open(path, framework="pt") as tensors:
        names = set(tensors.keys())
        if not names:
            yield "it holds no tensors"
        for name in sorted(names):
            module, _, kind = name.removeprefix(TENSOR_PREFIX).rpartition(".lora_")
            if module not in linear_shapes or kind not in ("A.weight", "B.weight"):
                yield f"{name} is not a lora_A or lora_B of a linear layer"
                continue
            outputs, inputs = linear_shapes[module]
            expected = [rank, inputs] if kind == "A.weight" else [outputs, rank]
            shape = tensors.get_slice(name).get_shape()
            if shape != expected:
                yield f"{name} has shape {shape}, not {expected}"
            partner = f"{TENSOR_PREFIX}{module}.lora_{'B' if kind == 'A.weight' else 'A'}.weight"
            if partner not in names:
                yield f"{name} has no {partner}"
            if not torch.isfinite(tensors.get_tensor(name)).all():
                yield f"{name} holds values that are not finite; lower learning_rate_multiplier or learning_rate"
