"""`method`: how a job trains, as OpenAI's clients send and read it. ORPO and KTO are in `training_extension.py`."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from service.fine_tuning.hyperparameters import DpoHyperparameters, Hyperparameters, ReinforcementHyperparameters
from tuning.contract import MethodName
from tuning.graders.schemas import Grader

OpenAiMethodName = Literal["supervised", "dpo", "reinforcement"]

HYPERPARAMETERS: dict[MethodName, type[Hyperparameters]] = {
    "supervised": Hyperparameters,
    "dpo": DpoHyperparameters,
    "orpo": Hyperparameters,
    "kto": Hyperparameters,
    "reinforcement": ReinforcementHyperparameters,
}


class SupervisedMethod(BaseModel):
    model_config = ConfigDict(extra="forbid")

    hyperparameters: Hyperparameters | None = None


class DpoMethod(BaseModel):
    model_config = ConfigDict(extra="forbid")

    hyperparameters: DpoHyperparameters | None = None


class ReinforcementMethod(BaseModel):
    model_config = ConfigDict(extra="forbid")

    grader: Grader = Field(
        description="What it gives an answer is the reward, which rises. A `score_model` or a `label_model` is refused "
        "here, also as a part of a `multi`: a trainer has no way to a model."
    )
    hyperparameters: ReinforcementHyperparameters | None = None
    response_format: JsonValue = Field(
        None, description="Refused: answers are drawn freely, and not held to a schema while they are drawn."
    )


class Method(BaseModel):
    """`type` decides; the blocks of the other methods may be there and are not looked at."""

    model_config = ConfigDict(extra="forbid")

    type: OpenAiMethodName
    supervised: SupervisedMethod | None = None
    dpo: DpoMethod | None = None
    reinforcement: ReinforcementMethod | None = None

    @model_validator(mode="before")
    @classmethod
    def _leave_out_the_others(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        blocks = [name for name in HYPERPARAMETERS if name != given.get("type")]  # which may be anything
        return {name: value for name, value in given.items() if name not in blocks}

    @property
    def block(self) -> SupervisedMethod | DpoMethod | ReinforcementMethod | None:
        return {"supervised": self.supervised, "dpo": self.dpo, "reinforcement": self.reinforcement}[self.type]


class SupervisedBody(BaseModel):
    type: Literal["supervised"]
    supervised: SupervisedMethod


class DpoBody(BaseModel):
    type: Literal["dpo"]
    dpo: DpoMethod


class ReinforcementBlock(BaseModel):
    grader: dict[str, Any] = Field(description="As it was sent.")
    hyperparameters: ReinforcementHyperparameters


class ReinforcementBody(BaseModel):
    type: Literal["reinforcement"]
    reinforcement: ReinforcementBlock


MethodBody = SupervisedBody | DpoBody | ReinforcementBody
"""As `Method`; its hyperparameters are numbers once the files are validated."""


def method_body(method: MethodName, hyperparameters: Mapping[str, Any]) -> MethodBody | None:
    """None: a method that OpenAI does not have; it is told in `x_training.method`."""
    block: dict[str, Any] = {"hyperparameters": {**hyperparameters}}
    match method:
        case "supervised":
            return SupervisedBody(type=method, supervised=SupervisedMethod.model_validate(block))
        case "dpo":
            return DpoBody(type=method, dpo=DpoMethod.model_validate(block))
        case "reinforcement":
            block["grader"] = block["hyperparameters"].pop("grader")
            return ReinforcementBody(type=method, reinforcement=ReinforcementBlock.model_validate(block))
        case _:
            return None
