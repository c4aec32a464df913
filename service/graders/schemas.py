"""Grader runs as OpenAI's clients send and read them; the graders themselves are in `tuning/graders/schemas.py`."""

from dataclasses import asdict
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from tuning.graders.grading import Grade
from tuning.graders.schemas import Grader

_GRADER_EXAMPLE: dict[str, JsonValue] = {
    "type": "string_check",
    "name": "right label",
    "input": "{{sample.output_text}}",
    "reference": "{{item.label}}",
    "operation": "eq",
}


class RunGrader(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"grader": _GRADER_EXAMPLE, "model_sample": "lamp", "item": {"label": "lamp"}}],
        },
    )

    grader: Grader
    model_sample: str = Field(
        description="The answer to grade: `sample.output_text`, and `sample.output_json` when it is JSON."
    )
    item: dict[str, Any] | None = Field(None, description="The row of the data set, as `item`.")


class ValidateGrader(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"grader": _GRADER_EXAMPLE}]})

    grader: Grader


class ValidatedGrader(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"grader": _GRADER_EXAMPLE}]})

    grader: Grader


class GraderErrors(BaseModel):
    """What kept the answer from being graded. With any of them the reward is 0."""

    formula_parse_error: bool = Field(False, description="The formula of a `multi` grader gives no finite number.")
    sample_parse_error: bool = Field(False, description="`sample.output_json` is named, and the answer is not JSON.")
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False
    invalid_variable_error: bool = Field(False, description="A template names a value that is not there.")
    other_error: bool = False
    python_grader_server_error: bool = Field(False, description="The sandbox did not start.")
    python_grader_server_error_type: str | None = None
    python_grader_runtime_error: bool = Field(
        False, description="`grade` raised, returned no finite float, or went over a limit."
    )
    python_grader_runtime_error_details: str | None = None
    model_grader_server_error: bool = Field(False, description="The model that grades did not answer.")
    model_grader_refusal_error: bool = False
    model_grader_parse_error: bool = Field(False, description="The model's answer is not the JSON it was asked for.")
    model_grader_server_error_details: str | None = None
    details: str | None = Field(None, description="An extension: what went wrong, in words, whatever the kind.")


class GraderMetadata(BaseModel):
    name: str
    type: str
    errors: GraderErrors
    execution_time: float = Field(description="In seconds.")
    scores: dict[str, Any] = Field(
        description="`label` of a label_model grader, `passed` with a `pass_threshold`; of a multi grader by name."
    )
    token_usage: int | None = Field(description="Of all models that were asked.")
    sampled_model_name: str | None = Field(description="The model that was asked, when it was one.")


class TokenUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int


class GraderRun(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "reward": 1.0,
                    "metadata": {
                        "name": "right label",
                        "type": "string_check",
                        "errors": GraderErrors().model_dump(),
                        "execution_time": 0.0001,
                        "scores": {},
                        "token_usage": None,
                        "sampled_model_name": None,
                    },
                    "sub_rewards": {},
                    "model_grader_token_usage_per_model": {},
                }
            ]
        }
    )

    reward: float
    metadata: GraderMetadata
    sub_rewards: dict[str, float] = Field(description="Of a multi grader: the reward of each grader in it.")
    model_grader_token_usage_per_model: dict[str, TokenUsage]

    @classmethod
    def from_grade(cls, grade: Grade) -> Self:
        usage = {model: TokenUsage.model_validate(asdict(tokens)) for model, tokens in grade.usage.items()}
        return cls(
            reward=grade.reward,
            metadata=GraderMetadata(
                name=grade.name,
                type=grade.type,
                errors=_errors_of(grade),
                execution_time=grade.seconds,
                scores=grade.scores,
                token_usage=sum(tokens.total_tokens for tokens in usage.values()) if usage else None,
                sampled_model_name=next(iter(usage)) if len(usage) == 1 else None,
            ),
            sub_rewards=grade.sub_rewards,
            model_grader_token_usage_per_model=usage,
        )


def _errors_of(grade: Grade) -> GraderErrors:
    if not grade.failures:
        return GraderErrors()
    details = {failure.flag: failure.detail for failure in reversed(grade.failures)}  # the first of each kind stays
    return GraderErrors(
        **dict.fromkeys(details, True),
        python_grader_server_error_type="sandbox_error" if "python_grader_server_error" in details else None,
        python_grader_runtime_error_details=details.get("python_grader_runtime_error"),
        model_grader_server_error_details=details.get("model_grader_server_error"),
        details="; ".join(failure.detail for failure in grade.failures)[:4000],
    )
