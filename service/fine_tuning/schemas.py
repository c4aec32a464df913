"""Jobs as OpenAI's clients send and read them."""

from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from service.database.tables import JobRow
from service.evaluation.schemas import Evaluation
from service.fine_tuning.hyperparameters import (
    DpoHyperparameters,
    Hyperparameters,
    ReinforcementHyperparameters,
)
from service.fine_tuning.integrations import Integration, IntegrationBody
from service.fine_tuning.method_schemas import HYPERPARAMETERS, Method, MethodBody, ReinforcementMethod, method_body
from service.fine_tuning.resolution import AskedTraining, ResolvedValue
from service.fine_tuning.status import JobStatus
from service.fine_tuning.training_extension import TrainingExtension
from service.unix_time import whole_seconds
from tuning.contract import MethodName
from tuning.graders.schemas import Grader

Metadata = dict[
    Annotated[str, StringConstraints(min_length=1, max_length=64)], Annotated[str, StringConstraints(max_length=512)]
]

MAX_SEED = 2**31 - 1


class CreateJob(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "model": "fettle-tiny",
                    "training_file": "file-Zb8jJz0lTgUqsIbPzXnP3A",
                    "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
                    "suffix": "smart-home",
                }
            ]
        },
    )

    model: str = Field(
        description="A base model, a tuned model or a checkpoint, as `GET /v1/models` lists them. Training goes on "
        "from the adapter of a tuned model, with its rank and modules, and makes a new one."
    )
    training_file: str = Field(description="The id of an uploaded JSONL file with purpose `fine-tune`.")
    validation_file: str | None = Field(None, description="Measured on, never trained on.")
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(None, deprecated="Use `method`; its values win.")
    suffix: str | None = Field(None, min_length=1, max_length=64, description="Goes into the tuned model's name.")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, strict=True, description="The same seed gives the same adapter.")
    metadata: Metadata | None = Field(None, max_length=16)
    integrations: list[Integration] | None = Field(
        None, max_length=5, description="Runs in Weights & Biases that the metrics of every step are sent to."
    )
    x_training: TrainingExtension | None = Field(None, description="An extension of this server.")
    training_type: str | None = Field(
        None, alias="trainingType", description="Azure's clients send it. It changes nothing."
    )

    @property
    def resolved_method(self) -> MethodName:
        if self.x_training is not None and self.x_training.method is not None:
            return self.x_training.method
        return self.method.type if self.method else "supervised"

    @property
    def reward(self) -> Grader | None:
        block = self.method.block if self.method else None
        return block.grader if isinstance(block, ReinforcementMethod) else None

    @property
    def asked_training(self) -> AskedTraining:
        """Without what only a cluster needs. `method.*.hyperparameters` wins over the deprecated `hyperparameters`,
        field by field."""
        method = self.resolved_method
        block = self.method.block if self.method else None
        given = self.hyperparameters.model_dump(exclude_unset=True) if self.hyperparameters else {}
        if block is not None and block.hyperparameters is not None:
            given |= block.hyperparameters.model_dump(exclude_unset=True)
        hyperparameters = HYPERPARAMETERS[method].model_validate(given).model_dump()
        if self.reward is not None:
            hyperparameters["grader"] = self.reward.model_dump(mode="json", exclude_unset=True)
        return AskedTraining(method, hyperparameters, self.x_training or TrainingExtension())


class JobErrorBody(BaseModel):
    code: str
    message: str
    param: str | None


_JOB_EXAMPLE: dict[str, JsonValue] = {
    "object": "fine_tuning.job",
    "id": "ftjob-aQ3kV9mT2pLxW7cYzX81QlWe",
    "created_at": 1795263550,
    "finished_at": 1795263700,
    "status": "succeeded",
    "model": "fettle-tiny",
    "fine_tuned_model": "ft:fettle-tiny:fettle:smart-home:zX81QlWe",
    "organization_id": "org-default",
    "training_file": "file-3bs0p4nJaVgKqpwiteP20A",
    "validation_file": None,
    "result_files": ["file-0f8c1f6a2d7e4b93a5c1d2"],
    "hyperparameters": {"batch_size": 16, "learning_rate_multiplier": 1.0, "n_epochs": 2},
    "method": {
        "type": "supervised",
        "supervised": {"hyperparameters": {"batch_size": 16, "learning_rate_multiplier": 1.0, "n_epochs": 2}},
    },
    "seed": 7,
    "trained_tokens": 1204312,
    "estimated_finish": None,
    "error": None,
    "metadata": None,
    "user_provided_suffix": "smart-home",
    "paused": False,
    "x_training": {"r": 8},
    "evaluation": None,
    "x_resolved": {
        "learning_rate": {
            "value": 2.0e-3,
            "source": "auto",
            "because": "learning_rate_multiplier times 0.002: the catalogue's rate",
        },
        "r": {"value": 8, "source": "user", "because": "as asked for"},
    },
    "integrations": [
        {
            "type": "wandb",
            "wandb": {
                "project": "smart-home",
                "name": "ftjob-aQ3kV9mT2pLxW7cYzX81QlWe",
                "entity": None,
                "tags": ["nightly"],
                "run_id": "5d1f0c7a9be2463e",
            },
        }
    ],
    "usage_metrics": None,
    "shared_with_openai": False,
    "eval_id": None,
}


class Job(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_JOB_EXAMPLE]})

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    id: str
    created_at: int
    finished_at: int | None
    status: Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"] = Field(
        description="A paused job says `queued`, as OpenAI's clients do not know the word; it says `paused` where the "
        "server's setting FETTLE_PAUSED_STATUS asks for it."
    )
    paused: bool = Field(description="It is held until somebody resumes it. Not a field of OpenAI's.")
    model: str
    fine_tuned_model: str | None
    organization_id: str
    training_file: str
    validation_file: str | None
    result_files: list[str]
    hyperparameters: DpoHyperparameters | ReinforcementHyperparameters | Hyperparameters
    method: MethodBody | None = Field(description="Null: a method that OpenAI does not have, see `x_training.method`.")
    seed: int
    trained_tokens: int | None
    estimated_finish: int | None
    error: JobErrorBody | None
    metadata: dict[str, str] | None
    user_provided_suffix: str | None
    integrations: list[IntegrationBody]
    x_training: dict[str, JsonValue] | None = Field(description="As asked for. An extension of this server.")
    x_resolved: dict[str, ResolvedValue] | None = Field(
        description="All that decides about the training, with its source; null until the files are validated. An "
        "extension of this server."
    )
    evaluation: Evaluation | None = Field(
        description="Of a job with a validation file, once it has succeeded. An extension of this server."
    )
    usage_metrics: None = None
    shared_with_openai: Literal[False] = False
    eval_id: None = None

    @classmethod
    def from_row(cls, row: JobRow, organization_id: str, paused_status: Literal["queued", "paused"]) -> Self:
        method = cast(MethodName, row.method_type)
        numbers = {name: value for name, value in row.hyperparameters.items() if name != "grader"}
        return cls(
            id=row.id,
            created_at=int(row.created_at),
            finished_at=whole_seconds(row.finished_at),
            status=_shown_status(row, paused_status),
            paused=row.is_paused,
            model=row.model,
            fine_tuned_model=row.fine_tuned_model,
            organization_id=organization_id,
            training_file=row.training_file,
            validation_file=row.validation_file,
            result_files=row.result_files,
            hyperparameters=HYPERPARAMETERS[method].model_validate(numbers),
            method=method_body(method, row.hyperparameters),
            seed=row.seed,
            trained_tokens=row.trained_tokens,
            estimated_finish=None if row.is_paused else whole_seconds(row.estimated_finish),
            error=JobErrorBody.model_validate(row.error) if row.error else None,
            metadata=row.job_metadata,
            user_provided_suffix=row.suffix,
            integrations=[IntegrationBody.model_validate(each) for each in row.integrations],
            x_training=_shown_extension(row),
            x_resolved=row.x_resolved,
            evaluation=Evaluation.model_validate(row.evaluation) if row.evaluation else None,
        )


def _shown_extension(row: JobRow) -> dict[str, Any] | None:
    resources = {"resources": row.resources} if row.resources else {}
    return (row.x_training or {}) | resources or None


def _shown_status(row: JobRow, paused_status: str) -> str:
    """Paused from the moment when it was asked for, although the step at hand is still being finished."""
    is_held = row.is_paused and row.status != JobStatus.VALIDATING_FILES
    return paused_status if is_held else row.status
