"""What a job trains with where it asks for nothing: every number, and where it comes from. `docs/training.md` tells
the same; a test compares them."""

from typing import Final

from tuning.contract import MethodName

LEARNING_RATE_SHARE: Final[dict[MethodName, tuple[float, str]]] = {
    "supervised": (1.0, "the catalogue's rate"),
    # TRL's own defaults: 2e-5 for SFT, 1e-6 for DPO, KTO and GRPO; its example of DPO with LoRA takes 5e-6, ten times
    # its rate without. Preferences want smaller steps than imitation; a tenth is the upper end of what is published.
    "dpo": (0.1, "a tenth of the catalogue's rate: preferences want smaller steps than imitation (TRL: 1/20)"),
    "kto": (0.1, "a tenth of the catalogue's rate, as for DPO (TRL: 1/20)"),
    # Half of ORPO's loss is SFT's. Its paper trains at 8e-6, TRL's example too: 0.4 of TRL's rate for SFT.
    "orpo": (0.25, "a quarter of the catalogue's rate: between SFT and DPO (paper and TRL's example: 0.4)"),
    # The tinker cookbook trains Llama-3.1-8B by RL at 4e-5, where its rule for SFT gives 2.9e-4: 0.14.
    "reinforcement": (0.1, "a tenth of the catalogue's rate (tinker cookbook: 0.14)"),
}
"""Of the catalogue's `learning_rate`, which is for supervised training with LoRA: 5e-4 · (2000 / hidden)^k."""

BETA: Final = 0.1
BETA_SOURCE: Final[dict[str, str]] = {
    "dpo": "the DPO paper's and TRL's",
    "orpo": "the ORPO paper's lambda for 7B models, and TRL's",
    "kto": "the KTO paper's and TRL's",
}

LR_SCHEDULER_TYPE: Final = ("linear", "TRL's and transformers'")
WARMUP_RATIO: Final = (0.03, "the QLoRA paper's")
WEIGHT_DECAY: Final = (0.0, "TRL's and transformers'")
MAX_GRAD_NORM: Final = (1.0, "TRL's and transformers'")
KTO_WEIGHT: Final = (1.0, "TRL's: as for as many rows of either label")
SAMPLES_PER_PROMPT: Final = (8, "TRL's `num_generations`")
MAX_COMPLETION_TOKENS: Final = 256
TEMPERATURE: Final = (1.0, "TRL's: the model's own distribution")
KL_BETA: Final = (0.0, "TRL's: no reference model, as in DAPO and Dr. GRPO")
EVAL_SAMPLES: Final = (1, "one answer a row")

MIN_STEPS_PER_EPOCH: Final = 8  # "auto" makes the batch smaller before it leaves fewer steps than this

# OpenAI's rule for "auto": few examples are seen more often, very many less often than three times.
DEFAULT_EPOCHS: Final = 3
MIN_TARGET_EXAMPLES: Final = 100
MAX_TARGET_EXAMPLES: Final = 25_000
MAX_AUTO_EPOCHS: Final = 25


def auto_epochs(rows: int) -> tuple[int, str]:
    if rows * DEFAULT_EPOCHS < MIN_TARGET_EXAMPLES:
        epochs = min(MAX_AUTO_EPOCHS, MIN_TARGET_EXAMPLES // rows)
        return epochs, f"OpenAI's rule: few rows ({rows}) are seen more often, up to {MAX_AUTO_EPOCHS} times"
    if rows * DEFAULT_EPOCHS > MAX_TARGET_EXAMPLES:
        epochs = max(1, MAX_TARGET_EXAMPLES // rows)
        return epochs, f"OpenAI's rule: about {MAX_TARGET_EXAMPLES:,} examples in all, at least every row once"
    return DEFAULT_EPOCHS, "OpenAI's rule"


def auto_batch_size(catalogue_size: int, rows: int) -> tuple[int, str]:
    if (size := max(1, min(catalogue_size, rows // MIN_STEPS_PER_EPOCH))) == catalogue_size:
        return size, "the catalogue's"
    return (
        size,
        f"the catalogue's {catalogue_size} made smaller, for {MIN_STEPS_PER_EPOCH} steps an epoch of {rows} rows",
    )


def auto_max_completion_tokens(context_length: int) -> tuple[int, str]:
    tokens = min(MAX_COMPLETION_TOKENS, context_length // 2)
    return tokens, f"the smaller of {MAX_COMPLETION_TOKENS} and half of the model's context"
