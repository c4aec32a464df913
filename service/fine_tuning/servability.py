"""Will vLLM load what a job makes? Asked before anything is trained."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from service.fine_tuning.served_architectures import EXPERT_ARCHITECTURES, SERVED_ARCHITECTURES
from tuning.model_shape import ALL_LINEAR

_UNSERVED_MODULES = frozenset({"lm_head", "embed_out", "embed_tokens", "wte", "wpe", "norm"})
"""vLLM puts adapters on inner linear layers only."""
_EXPERT_MODULES = frozenset({"experts", "gate_proj", "up_proj", "down_proj", "gate_up_proj", "w1", "w2", "w3", "gate"})

MAX_SHOWN_NAMES = 20


@dataclass(frozen=True)
class Wanted:
    """What would be saved, and for which base."""

    base: str
    """Its name in the catalogue."""
    architecture: str | None
    """Of `config.json`; None: not known yet."""
    max_lora_rank: int
    """vLLM's flag for this base."""
    adaptation: str
    r: int
    target_modules: str | Sequence[str]
    linear_modules: Collection[str] | None = None
    """The names of the base's linear layers, as `target_modules` would have them; None: not known."""


@dataclass(frozen=True)
class Refusal:
    param: str
    message: str


def refusal(wanted: Wanted) -> Refusal | None:
    """The reason and the remedy, or None: vLLM will load it."""
    return _of_adaptation(wanted) or _of_architecture(wanted) or _of_rank(wanted) or _of_targets(wanted)


def _of_adaptation(wanted: Wanted) -> Refusal | None:
    match wanted.adaptation:
        case "dora":
            reason = (
                "vLLM loads no DoRA adapters, and this server serves no merged models. Use 'lora', with 'use_rslora' "
                "and a larger 'r' where it falls short."
            )
        case "full":
            reason = (
                "Full fine-tuning makes a whole model, and this server serves adapters only. Use 'lora' with a larger "
                f"'r', up to {wanted.max_lora_rank}."
            )
        case _:
            return None
    return Refusal("x_training.adaptation", f"'{wanted.adaptation}' is refused - 'adaptation': {reason}")


def _of_architecture(wanted: Wanted) -> Refusal | None:
    if wanted.architecture is None or wanted.architecture in SERVED_ARCHITECTURES:
        return None
    return Refusal(
        "model",
        f"Model {wanted.base} is a {wanted.architecture or 'model without an architecture'}, for which vLLM serves no "
        "adapters, so that nothing tuned from it could answer. Name another base model; the operator may take one into "
        "the catalogue whose architecture vLLM serves adapters for.",
    )


def _of_rank(wanted: Wanted) -> Refusal | None:
    if wanted.r <= wanted.max_lora_rank:
        return None
    return Refusal(
        "x_training.r",
        f"{wanted.r} is greater than the maximum of {wanted.max_lora_rank} - 'r': vLLM serves adapters of "
        f"{wanted.base} up to this rank. Choose a smaller one, or ask the operator to raise 'max_lora_rank' of this "
        "model in the catalogue.",
    )


def _of_targets(wanted: Wanted) -> Refusal | None:
    targets, param = wanted.target_modules, "x_training.target_modules"
    has_experts = wanted.architecture in EXPERT_ARCHITECTURES
    if isinstance(targets, str):
        if not has_experts or targets != ALL_LINEAR:
            return None
        reason = f"'{ALL_LINEAR}' is refused for {wanted.base}, whose layers are mixtures of experts"
        return Refusal(param, f"{reason}: name the attention's layers, such as ['q_proj', 'k_proj', 'v_proj'].")
    if unserved := [name for name in targets if name in _UNSERVED_MODULES]:
        return Refusal(
            param,
            f"'{unserved[0]}' is refused - 'target_modules': vLLM serves adapters on inner linear layers only, not on "
            f"embeddings, norms and the output head. {_choices(wanted)}",
        )
    if has_experts and (experts := [name for name in targets if name in _EXPERT_MODULES]):
        return Refusal(
            param,
            f"'{experts[0]}' is refused - 'target_modules': {wanted.base} holds the experts of a layer as one tensor, "
            "which is no linear layer to put an adapter on. Name the attention's layers.",
        )
    known = wanted.linear_modules
    if known and (absent := [name for name in targets if name not in known]):
        return Refusal(
            param, f"'{absent[0]}' is no linear layer of {wanted.base} - 'target_modules'. {_choices(wanted)}"
        )
    return None


def _choices(wanted: Wanted) -> str:
    if not wanted.linear_modules:
        return f"Leave it out, or use '{ALL_LINEAR}'."
    return f"It has {', '.join(sorted(wanted.linear_modules)[:MAX_SHOWN_NAMES])}; '{ALL_LINEAR}' names all of them."
