"""`x_training`: what OpenAI's fields cannot say about a training run, in PEFT's and TRL's words."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.evaluation.schemas import EvaluationRequest
from service.fine_tuning.hyperparameters import Auto, Beta
from tuning.contract import LrScheduler, MethodName
from tuning.resources import TrainingResources

MIN_LENGTH = 16  # tokens; a turn of a chat and its template take as many

ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]

Weight = Annotated[float, Field(gt=0, le=100, strict=True)]
Count = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]


class TrainingExtension(BaseModel):
    """What OpenAI's fields cannot say; with the SDK: `extra_body={"x_training": {…}}`. What is left out is chosen by
    the server, and told in the job's `x_resolved`; `docs/training.md` has every default and where it comes from."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"r": 8, "lr_scheduler_type": "cosine", "keep": "best"}]}
    )

    method: Literal["orpo", "kto"] | None = Field(
        None, description="A method that OpenAI does not have. `method` is left out then."
    )
    adaptation: Literal["lora", "qlora", "dora", "full"] | None = Field(
        None,
        description="`qlora`: the frozen base is held in 4 bits (NF4) while it is trained on. `dora` and `full` are "
        "refused: vLLM would not serve what they make.",
    )
    r: Annotated[int, Field(ge=1, le=512, strict=True)] | None = Field(
        None, description="The rank, up to the base model's `max_lora_rank`."
    )
    lora_alpha: Annotated[int, Field(ge=1, le=65536, strict=True)] | None = Field(
        None, description="What the adapter's output is scaled by, divided by the rank."
    )
    lora_dropout: Annotated[float, Field(ge=0, lt=1, strict=True)] | None = None
    target_modules: Literal["all-linear"] | Annotated[list[ModuleName], Field(min_length=1, max_length=64)] | None = (
        Field(None, description="Names of linear layers, such as `q_proj`, or all of them but the output head.")
    )
    use_rslora: Annotated[bool, Field(strict=True)] | None = Field(
        None, description="Scales by `lora_alpha` / √r instead of `lora_alpha` / r."
    )
    init_lora_weights: Literal["default", "eva"] | None = Field(
        None, description="`eva` starts from the main directions of the training rows' activations."
    )

    learning_rate: Annotated[float, Field(gt=0, le=1, strict=True)] | None = Field(
        None, description="Absolute; in the place of `learning_rate_multiplier`."
    )
    lr_scheduler_type: LrScheduler | None = None
    warmup_ratio: Annotated[float, Field(ge=0, lt=1, strict=True)] | None = Field(
        None, description="The share of all steps in which the learning rate rises."
    )
    weight_decay: Annotated[float, Field(ge=0, le=1, strict=True)] | None = None
    max_grad_norm: Annotated[float, Field(ge=0, le=1000, strict=True)] | None = Field(
        None, description="Gradients are clipped to this norm; 0: they are not."
    )
    neftune_noise_alpha: Annotated[float, Field(gt=0, le=100, strict=True)] | None = Field(
        None, description="Noise on the embeddings while training."
    )
    max_length: Annotated[int, Field(ge=MIN_LENGTH, strict=True)] | None = Field(
        None, description="Tokens; longer rows are cut here. At most, and by default, the base model's context."
    )
    packing: Annotated[bool, Field(strict=True)] | None = Field(
        None, description="Short rows share a sequence in memory, each blind to the others. It changes no result."
    )
    gradient_checkpointing: Auto | Annotated[bool, Field(strict=True)] | None = Field(
        None, description="Less memory for more time; auto: where it does not fit otherwise."
    )
    precision: Literal["float32", "bfloat16"] | None = Field(
        None, description="Of the base model's weights while they are trained on."
    )

    beta: Beta | None = Field(
        None,
        description="For `orpo`: the weight of the odds ratio. For `kto`: how strongly the tuned model is held near "
        "what it was before. DPO's is in `method.dpo.hyperparameters`.",
    )
    desirable_weight: Weight | None = Field(None, description="For `kto`: what rows labelled true count.")
    undesirable_weight: Weight | None = Field(None, description="For `kto`: what rows labelled false count.")
    samples_per_prompt: Annotated[int, Field(ge=2, le=64, strict=True)] | None = Field(
        None, description="For `reinforcement`: answers that are drawn for each prompt and compared."
    )
    max_completion_tokens: Annotated[int, Field(ge=1, strict=True)] | None = Field(
        None, description="For `reinforcement`: the longest answer that is drawn."
    )
    temperature: Annotated[float, Field(gt=0, le=2, strict=True)] | None = Field(
        None, description="For `reinforcement`: at which answers are drawn."
    )
    kl_beta: Annotated[float, Field(ge=0, le=10, strict=True)] | None = Field(
        None, description="For `reinforcement`: how strongly the tuned model is held near what it was before; 0: not."
    )

    keep: Literal["best", "last"] | None = Field(
        None, description="Which evaluated step becomes the model: the best one on the validation file, or the last."
    )
    eval_steps: Count | None = Field(
        None, description="The whole validation file is measured every so many steps, and not at the end of each epoch."
    )
    early_stopping_patience: Count | None = Field(
        None, description="Training stops after so many evaluations in a row without a better one."
    )
    evaluation: EvaluationRequest | None = Field(
        None,
        description="How the tuned model is compared with the one that it was tuned from, once it answers. By default "
        "on 32 rows of the validation file.",
    )
    resources: TrainingResources | None = Field(
        None,
        description="What each node of the training run gets on a cluster. What is not named comes from the base "
        "model's entry in the catalogue.",
    )

    @classmethod
    def from_column(cls, column: dict[str, Any] | None) -> Self:
        return cls.model_validate(column or {})

    def to_column(self) -> dict[str, Any] | None:
        """As asked for, but for `resources`, which have a column of their own."""
        return self.model_dump(mode="json", exclude_none=True, exclude={"resources"}) or None


_ONLY_FOR: dict[str, tuple[MethodName, ...]] = {
    "beta": ("orpo", "kto"),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
    "samples_per_prompt": ("reinforcement",),
    "max_completion_tokens": ("reinforcement",),
    "temperature": ("reinforcement",),
    "kl_beta": ("reinforcement",),
    "neftune_noise_alpha": ("supervised", "dpo", "orpo", "kto"),
}
"""The keys that mean something for some methods only."""


def stray_key(asked: TrainingExtension, method: MethodName) -> str | None:
    """The first key that was given and means nothing for this method."""
    given = asked.model_dump(exclude_none=True)
    return next((name for name, methods in _ONLY_FOR.items() if name in given and method not in methods), None)


def methods_with(key: str) -> str:
    """In words."""
    told = " and ".join(f"'{method}'" for method in _ONLY_FOR[key])
    return f"{told}; DPO's is in 'method.dpo.hyperparameters'" if key == "beta" else told
