"""From OpenAI's hyperparameters to PEFT's and TRL's words, once: "auto" becomes a number, a multiplier a rate."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tuning.adapter_manifest import AdapterManifest
from tuning.catalogue import CatalogueEntry
from tuning.contract import LoraSpec, SupervisedSpec

Auto = Literal["auto"]

MIN_STEPS_PER_EPOCH = 8  # "auto" makes the batch smaller before it leaves fewer steps than this

# OpenAI's rule for "auto": few examples are seen more often, very many less often than three times.
DEFAULT_EPOCHS = 3
MIN_TARGET_EXAMPLES = 100
MAX_TARGET_EXAMPLES = 25_000
MAX_AUTO_EPOCHS = 25


class Hyperparameters(BaseModel):
    """As asked for: a number or "auto". Absent is "auto" too."""

    model_config = ConfigDict(extra="forbid")

    batch_size: Annotated[int, Field(ge=1, le=256, strict=True)] | Auto = Field(
        "auto", description="Examples in each optimizer step."
    )
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=1000, strict=True, allow_inf_nan=False)] | Auto = Field(
        "auto", description="Multiplies the base model's own learning rate; never an absolute rate."
    )
    n_epochs: Annotated[int, Field(ge=1, le=50, strict=True)] | Auto = Field(
        "auto", description="How often each example is seen."
    )


class ResolvedHyperparameters(BaseModel):
    batch_size: int
    learning_rate_multiplier: float
    n_epochs: int


def resolve(asked: Hyperparameters, entry: CatalogueEntry, rows: int) -> ResolvedHyperparameters:
    """`rows`: the examples that are trained on."""
    return ResolvedHyperparameters(
        batch_size=_auto_batch_size(entry, rows) if asked.batch_size == "auto" else asked.batch_size,
        learning_rate_multiplier=1.0 if asked.learning_rate_multiplier == "auto" else asked.learning_rate_multiplier,
        n_epochs=_auto_epochs(rows) if asked.n_epochs == "auto" else asked.n_epochs,
    )


def to_supervised_spec(resolved: ResolvedHyperparameters, entry: CatalogueEntry) -> SupervisedSpec:
    return SupervisedSpec(
        n_epochs=resolved.n_epochs,
        batch_size=resolved.batch_size,
        learning_rate=entry.learning_rate * resolved.learning_rate_multiplier,
        lr_scheduler_type="linear",
        warmup_ratio=0.03,
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_length=entry.context_length,
        packing=True,
    )


def to_lora_spec(entry: CatalogueEntry, parent: AdapterManifest | None) -> LoraSpec:
    """An adapter that training goes on from keeps its shape."""
    if parent is not None:
        return LoraSpec(
            r=parent.r,
            lora_alpha=parent.lora_alpha,
            lora_dropout=entry.lora.lora_dropout,
            target_modules=parent.target_modules,
        )
    return LoraSpec(
        r=entry.lora.r,
        lora_alpha=entry.lora.lora_alpha,
        lora_dropout=entry.lora.lora_dropout,
        target_modules=entry.lora.target_modules,
    )


def _auto_batch_size(entry: CatalogueEntry, rows: int) -> int:
    return max(1, min(entry.batch_size, rows // MIN_STEPS_PER_EPOCH))


def _auto_epochs(rows: int) -> int:
    if rows * DEFAULT_EPOCHS < MIN_TARGET_EXAMPLES:
        return min(MAX_AUTO_EPOCHS, MIN_TARGET_EXAMPLES // rows)
    if rows * DEFAULT_EPOCHS > MAX_TARGET_EXAMPLES:
        return max(1, MAX_TARGET_EXAMPLES // rows)
    return DEFAULT_EPOCHS
