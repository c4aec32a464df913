"""Jobs, events and checkpoints as OpenAI's clients send and read them."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from service.database.tables import CheckpointRow, EventRow, JobRow
from service.fine_tuning.hyperparameters import Hyperparameters
from service.fine_tuning.integrations import Integration, IntegrationBody
from service.fine_tuning.status import JobStatus
from service.unix_time import whole_seconds
from tuning.resources import TrainingResources

Metadata = dict[
    Annotated[str, StringConstraints(min_length=1, max_length=64)], Annotated[str, StringConstraints(max_length=512)]
]

MAX_SEED = 2**31 - 1


class SupervisedMethod(BaseModel):
    model_config = ConfigDict(extra="forbid")

    hyperparameters: Hyperparameters | None = None


class Method(BaseModel):
    """`type` decides; the blocks of the other methods may be there and are not looked at."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedMethod | None = None
    dpo: dict[str, Any] | None = None
    reinforcement: dict[str, Any] | None = None


class TrainingExtension(BaseModel):
    """What OpenAI's fields cannot say; with the SDK: `extra_body={"x_training": {…}}`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"resources": {"gpus": 2}}]})

    resources: TrainingResources | None = Field(
        None,
        description="What each node of the training run gets on a cluster. What is not named comes from the base "
        "model's entry in the catalogue.",
    )


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
    def resolved_method(self) -> Literal["supervised", "dpo", "reinforcement"]:
        return self.method.type if self.method else "supervised"

    @property
    def merged_hyperparameters(self) -> Hyperparameters:
        """`method.supervised.hyperparameters` over the deprecated `hyperparameters`, field by field."""
        given = self.hyperparameters.model_dump(exclude_unset=True) if self.hyperparameters else {}
        if self.method and self.method.supervised and self.method.supervised.hyperparameters:
            given |= self.method.supervised.hyperparameters.model_dump(exclude_unset=True)
        return Hyperparameters.model_validate(given)


class JobErrorBody(BaseModel):
    code: str
    message: str
    param: str | None


class MethodBody(BaseModel):
    type: Literal["supervised"]
    supervised: SupervisedMethod


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
    "x_training": None,
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
    hyperparameters: Hyperparameters
    method: MethodBody
    seed: int
    trained_tokens: int | None
    estimated_finish: int | None
    error: JobErrorBody | None
    metadata: dict[str, str] | None
    user_provided_suffix: str | None
    integrations: list[IntegrationBody]
    x_training: TrainingExtension | None = Field(description="As asked for. An extension of this server.")
    usage_metrics: None = None
    shared_with_openai: Literal[False] = False
    eval_id: None = None

    @classmethod
    def from_row(cls, row: JobRow, organization_id: str, paused_status: Literal["queued", "paused"]) -> Self:
        hyperparameters = Hyperparameters.model_validate(row.hyperparameters)
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
            hyperparameters=hyperparameters,
            method=MethodBody(type="supervised", supervised=SupervisedMethod(hyperparameters=hyperparameters)),
            seed=row.seed,
            trained_tokens=row.trained_tokens,
            estimated_finish=None if row.is_paused else whole_seconds(row.estimated_finish),
            error=JobErrorBody.model_validate(row.error) if row.error else None,
            metadata=row.job_metadata,
            user_provided_suffix=row.suffix,
            integrations=[IntegrationBody.model_validate(each) for each in row.integrations],
            x_training=TrainingExtension.model_validate({"resources": row.resources}) if row.resources else None,
        )


class Event(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "fine_tuning.job.event",
                    "id": "ftevent-6Q0mC1pYwzX2vB4nT8sKdL3f",
                    "created_at": 1795263612,
                    "level": "info",
                    "message": "Step 60/200: training loss=0.73, validation loss=1.46",
                    "type": "metrics",
                    "data": {"step": 60, "total_steps": 200, "train_loss": 0.73, "valid_loss": 1.46},
                }
            ]
        }
    )

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    id: str
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None

    @classmethod
    def from_row(cls, row: EventRow) -> Self:
        return cls(
            id=row.id,
            created_at=int(row.created_at),
            level=row.level,
            message=row.message,
            type=row.type,
            data=row.data,
        )


class Checkpoint(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "fine_tuning.job.checkpoint",
                    "id": "ftckpt_c0Rr3ctH0rs3B4tt3ryStapl3",
                    "created_at": 1795263640,
                    "fine_tuned_model_checkpoint": "ft:fettle-tiny:fettle:smart-home:zX81QlWe:ckpt-step-100",
                    "fine_tuning_job_id": "ftjob-aQ3kV9mT2pLxW7cYzX81QlWe",
                    "step_number": 100,
                    "metrics": {"step": 100, "train_loss": 0.31, "full_valid_loss": 0.35},
                }
            ]
        }
    )

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    id: str
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, float]

    @classmethod
    def from_row(cls, row: CheckpointRow) -> Self:
        return cls(
            id=row.id,
            created_at=int(row.created_at),
            fine_tuned_model_checkpoint=row.model,
            fine_tuning_job_id=row.job_id,
            step_number=row.step_number,
            metrics=row.metrics,
        )


class CheckpointPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[Checkpoint]
    first_id: str | None
    last_id: str | None
    has_more: bool


class JobLog(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "fine_tuning.job.log",
                    "name": "0001-trainer.log",
                    "attempt": 1,
                    "container": "trainer",
                    "bytes": 18213,
                }
            ]
        }
    )

    object: Literal["fine_tuning.job.log"] = "fine_tuning.job.log"
    name: str
    attempt: int = Field(description="From 1: a job is tried again after a crash, and goes on after a pause.")
    container: str = Field(description="Whose output it is; `trainer` on one machine.")
    bytes: int


class JobLogList(BaseModel):
    object: Literal["list"] = "list"
    data: list[JobLog]


def _shown_status(row: JobRow, paused_status: str) -> str:
    """Paused from the moment when it was asked for, although the step at hand is still being finished."""
    is_held = row.is_paused and row.status != JobStatus.VALIDATING_FILES
    return paused_status if is_held else row.status
