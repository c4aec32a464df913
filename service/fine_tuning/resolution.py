"""From what was asked for to what is trained with: "auto" becomes a number, OpenAI's words become PEFT's and TRL's.

Each value keeps its source, so that the job can tell who decided what, and why.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

from pydantic import BaseModel, JsonValue

from service.database.tables import JobRow
from service.fine_tuning import defaults
from service.fine_tuning.training_extension import TrainingExtension
from tuning.adapter_manifest import AdapterManifest
from tuning.catalogue import CatalogueEntry
from tuning.contract import MethodName


class ResolvedValue(BaseModel):
    value: JsonValue
    source: Literal["user", "auto"]
    because: str


@dataclass(frozen=True)
class AskedTraining:
    method: MethodName
    hyperparameters: Mapping[str, Any]
    """With "auto"; `grader` is among them."""
    extension: TrainingExtension

    @classmethod
    def from_row(cls, job: JobRow) -> Self:
        return cls(
            cast(MethodName, job.method_type), job.hyperparameters, TrainingExtension.from_column(job.x_training)
        )


@dataclass(frozen=True)
class ResolvedTraining:
    hyperparameters: dict[str, Any]
    """OpenAI's, without "auto"."""
    values: dict[str, ResolvedValue]
    """All that decides about the training, by the names of `x_training` and OpenAI's hyperparameters."""


def max_length(asked: AskedTraining, entry: CatalogueEntry) -> int:
    """Tokens of a row, a prompt in reinforcement; known before the rows are."""
    return int(_lengths(asked, entry)["max_length"][0])


def resolve(
    asked: AskedTraining, entry: CatalogueEntry, parent: AdapterManifest | None, *, rows: int, has_validation: bool
) -> ResolvedTraining:
    """`rows`: that are trained on. `parent`: of the adapter that training goes on from; it keeps its shape."""
    chosen = _Choices(asked)
    chosen.hyperparameter("n_epochs", *defaults.auto_epochs(rows))
    batch_size = chosen.hyperparameter("batch_size", *defaults.auto_batch_size(entry.batch_size, rows))
    _choose_learning_rate(chosen, entry)
    chosen.extension("lr_scheduler_type", *defaults.LR_SCHEDULER_TYPE)
    chosen.extension("warmup_ratio", *defaults.WARMUP_RATIO)
    chosen.extension("weight_decay", *defaults.WEIGHT_DECAY)
    chosen.extension("max_grad_norm", *defaults.MAX_GRAD_NORM)
    if asked.method != "reinforcement":
        chosen.extension("neftune_noise_alpha", None, "off")
    for name, default in _lengths(asked, entry).items():
        chosen.extension(name, *default)
    chosen.extension("packing", True, "it costs nothing")
    chosen.extension("gradient_checkpointing", "auto", "the trainer sees whether it fits without")
    chosen.extension("precision", entry.dtype, "the catalogue's")
    _choose_adapter(chosen, entry, parent)
    _choose_for_method(chosen, math.ceil(rows / batch_size))
    _choose_result(chosen, has_validation)
    return ResolvedTraining(chosen.hyperparameters, chosen.values)


class _Choices:
    """The values so far, and where they came from."""

    def __init__(self, asked: AskedTraining) -> None:
        self.asked = asked
        self.values: dict[str, ResolvedValue] = {}
        self.hyperparameters = dict(asked.hyperparameters)

    def extension(self, name: str, default: Any, because: str) -> Any:
        given = getattr(self.asked.extension, name)
        return self.put(name, default, because) if given is None else self.put(name, given)

    def hyperparameter(self, name: str, default: Any, because: str) -> Any:
        given = self.asked.hyperparameters.get(name, "auto")
        value = self.put(name, default, because) if given == "auto" else self.put(name, given)
        self.hyperparameters[name] = value
        return value

    def put(self, name: str, value: Any, because: str | None = None) -> Any:
        """`because`: why the server chose it; None: it was asked for."""
        source: Literal["user", "auto"] = "user" if because is None else "auto"
        self.values[name] = ResolvedValue(value=value, source=source, because=because or "as asked for")
        return value


def _choose_learning_rate(chosen: _Choices, entry: CatalogueEntry) -> None:
    share, source = defaults.LEARNING_RATE_SHARE[chosen.asked.method]
    base_rate = entry.learning_rate * share
    if (rate := chosen.asked.extension.learning_rate) is not None:
        chosen.put("learning_rate", rate)
        because = f"learning_rate, divided by {base_rate:g}: {source}"
        chosen.hyperparameters["learning_rate_multiplier"] = chosen.put(
            "learning_rate_multiplier", rate / base_rate, because
        )
        return
    multiplier = chosen.hyperparameter("learning_rate_multiplier", 1.0, "the base rate itself")
    chosen.put("learning_rate", base_rate * multiplier, f"learning_rate_multiplier times {base_rate:g}: {source}")


def _lengths(asked: AskedTraining, entry: CatalogueEntry) -> dict[str, tuple[Any, str]]:
    """Values and reasons; of what was asked for the reason is not used."""
    extension, context = asked.extension, entry.context_length
    if asked.method != "reinforcement":
        return {"max_length": (extension.max_length or context, "the model's context")}
    answer, because = defaults.auto_max_completion_tokens(context)
    if extension.max_completion_tokens is not None:
        answer = extension.max_completion_tokens
    elif extension.max_length is not None and extension.max_length + answer > context:
        answer, because = context - extension.max_length, "what max_length leaves of the model's context"
    return {
        "max_completion_tokens": (answer, because),
        "max_length": (extension.max_length or context - answer, "the model's context, without the answer"),
    }


def _choose_adapter(chosen: _Choices, entry: CatalogueEntry, parent: AdapterManifest | None) -> None:
    chosen.extension("adaptation", "lora", "the base stays as it is served; `qlora` takes less memory")
    if parent is None:
        lora, because = entry.lora, "the catalogue's"
        chosen.extension("r", lora.r, because)
        alpha_because = because
        alpha = lora.lora_alpha
        if (r := chosen.asked.extension.r) is not None:
            alpha, alpha_because = max(1, round(lora.lora_alpha * r / lora.r)), "the catalogue's share of r"
        chosen.extension("lora_alpha", alpha, alpha_because)
        targets: Any = lora.target_modules
        chosen.extension("target_modules", targets if isinstance(targets, str) else list(targets), because)
        chosen.extension("use_rslora", False, "PEFT's")
    else:
        because = "of the adapter that training goes on from"
        chosen.put("r", parent.r, because)
        chosen.put("lora_alpha", parent.lora_alpha, because)
        chosen.put("target_modules", list(parent.target_modules), because)
        chosen.put("use_rslora", parent.use_rslora, because)
    chosen.extension("lora_dropout", entry.lora.lora_dropout, "the catalogue's")
    if parent is None:
        chosen.extension("init_lora_weights", "default", "PEFT's")


def _choose_for_method(chosen: _Choices, steps_per_epoch: int) -> None:
    method = chosen.asked.method
    match method:
        case "dpo":
            chosen.hyperparameter("beta", defaults.BETA, defaults.BETA_SOURCE[method])
        case "orpo" | "kto":
            chosen.extension("beta", defaults.BETA, defaults.BETA_SOURCE[method])
        case "reinforcement":
            _choose_for_reinforcement(chosen, steps_per_epoch)
    if method == "kto":
        chosen.extension("desirable_weight", *defaults.KTO_WEIGHT)
        chosen.extension("undesirable_weight", *defaults.KTO_WEIGHT)


def _choose_for_reinforcement(chosen: _Choices, steps_per_epoch: int) -> None:
    multiplier = chosen.hyperparameter("compute_multiplier", 1.0, "as many answers as samples_per_prompt says")
    samples, source = defaults.SAMPLES_PER_PROMPT
    samples = chosen.asked.extension.samples_per_prompt or samples
    if multiplier == 1:
        chosen.extension("samples_per_prompt", samples, source)
    else:
        because = f"compute_multiplier times {samples}, and at least 2"
        chosen.put("samples_per_prompt", max(2, round(samples * multiplier)), because)
    chosen.extension("temperature", *defaults.TEMPERATURE)
    chosen.extension("kl_beta", *defaults.KL_BETA)
    chosen.hyperparameter("eval_interval", steps_per_epoch, "once each epoch")
    chosen.hyperparameter("eval_samples", *defaults.EVAL_SAMPLES)


def _choose_result(chosen: _Choices, has_validation: bool) -> None:
    because = "there is a validation file to tell" if has_validation else "there is no validation file to tell a best"
    chosen.extension("keep", "best" if has_validation else "last", because)
    chosen.extension("eval_steps", None, "at the end of each epoch")
    chosen.extension("early_stopping_patience", None, "off")
