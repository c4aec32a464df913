"""OpenAI's hyperparameters as they are asked for: a number or "auto"; absent is "auto" too."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Auto = Literal["auto"]

Beta = Annotated[float, Field(gt=0, le=2, strict=True)]


class Hyperparameters(BaseModel):
    """What every method has."""

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


class DpoHyperparameters(Hyperparameters):
    beta: Beta | Auto = Field(
        "auto", description="How strongly the tuned model is held near the model that it was before."
    )


class ReinforcementHyperparameters(Hyperparameters):
    compute_multiplier: Annotated[float, Field(gt=1e-5, le=10, strict=True)] | Auto = Field(
        "auto", description="Multiplies the answers that are drawn for each prompt."
    )
    eval_interval: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | Auto = Field(
        "auto", description="Steps between two evaluations on the validation rows; auto: once each epoch."
    )
    eval_samples: Annotated[int, Field(ge=1, le=64, strict=True)] | Auto = Field(
        "auto", description="Answers that are drawn for each validation row."
    )
    reasoning_effort: Literal["default", "auto", "low", "medium", "high"] = Field(
        "default",
        description="`default` only: no base model of this server reasons before it answers, so there is no effort to "
        "set.",
    )
