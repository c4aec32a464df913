"""What a job tells while it runs, as OpenAI's clients read it: events, checkpoints, and our logs."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from service.database.tables import CheckpointRow, EventRow


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
