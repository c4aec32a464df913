"""The base model and the adapter on it. Safetensors only, and no code from a model's repository."""

import errno
import hashlib
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.utils.hub import cached_file

from trainer_image.errors import TrainingFailed
from trainer_image.parent_adapter import load_parent
from tuning.contract import BaseModelSpec, ErrorCode, JobSpec
from tuning.data.rendering import ChatRenderer, RenderingError


def load_renderer(spec: JobSpec) -> tuple[PreTrainedTokenizerBase, ChatRenderer]:
    """Raises TrainingFailed when the model's chat template is not the one that the service checked with."""
    base = spec.base_model
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.source, revision=base.revision, trust_remote_code=False)
        tokenizer_path = str(cached_file(base.source, "tokenizer.json", revision=base.revision))
        template = Path(base.template_path).read_text("utf-8") if base.template_path else tokenizer.chat_template
    except (OSError, ValueError) as error:
        raise _unavailable(base, error) from error
    digest = hashlib.sha256(str(template).encode()).hexdigest()
    if digest != base.template_sha256:
        raise TrainingFailed(
            ErrorCode.DATA_CHANGED,
            f"The chat template of model {base.name} is another one (sha256 {digest[:12]}) than the job's data was "
            f"checked with ({base.template_sha256[:12]}). Create the job again, or restore the template.",
            "model",
        )
    try:
        return tokenizer, ChatRenderer(template, Path(tokenizer_path), base.stop_tokens, spec.method.max_length)
    except RenderingError as error:
        raise _unavailable(base, error) from error


def load_model(spec: JobSpec, work_dir: Path) -> PeftModel:
    """With a fresh adapter, or with the one that training goes on from."""
    base = spec.base_model
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            base.source,
            revision=base.revision,
            dtype=getattr(torch, base.dtype),
            quantization_config=_quantization(spec),
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _unavailable(base, error) from error
    _keep_differentiable(model)
    set_seed(spec.seed)  # PEFT draws lora_A here
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.lora.r,
        lora_alpha=spec.lora.lora_alpha,
        lora_dropout=spec.lora.lora_dropout,
        use_rslora=spec.lora.use_rslora,
        # PEFT takes "all-linear" without the output head: vLLM serves adapters on inner linear layers.
        target_modules=spec.lora.target_modules
        if isinstance(spec.lora.target_modules, str)
        else list(spec.lora.target_modules),
        bias="none",
    )
    try:
        tuned = get_peft_model(model, lora)
    except ValueError as error:  # no module of these names
        raise TrainingFailed(
            ErrorCode.ADAPTER_NOT_SERVABLE,
            f"LoRA cannot be put on model {base.name} with target_modules {spec.lora.target_modules}: {error}",
        ) from error
    if spec.parent_adapter_sha256 is not None:
        load_parent(tuned, spec, spec.parent_adapter_sha256, work_dir / "parent")
    return tuned


def _quantization(spec: JobSpec) -> BitsAndBytesConfig | None:
    """Of the linear layers, without the output head. The adapter on them stays float32, as on any other base."""
    if spec.lora.quantization == "none":
        return None
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type=spec.lora.quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, spec.base_model.dtype),
    )


def _keep_differentiable(model: PreTrainedModel) -> None:
    """bitsandbytes lays out a 4-bit weight anew when its layer is first evaluated on some CPUs; from then on gradients
    end there, without a word."""
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def _unavailable(base: BaseModelSpec, error: Exception) -> Exception:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return error
    revision = f" at revision {base.revision}" if base.revision else ""
    return TrainingFailed(
        ErrorCode.MODEL_UNAVAILABLE,
        f"The base model {base.name} ({base.source}{revision}) cannot be loaded: {error}",
        "model",
    )
