"""Integrations of a job: runs in Weights & Biases, that the trainer carries out."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.errors import InvalidRequest
from service.ids import wandb_run_id
from service.settings import Settings

# W&B's own limits: the run would be refused there, long after the job was created.
_Name = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
_PathName = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f/\\#?%:]+$")]
_Tag = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
MAX_TAGS = 64


class Wandb(BaseModel):
    model_config = ConfigDict(extra="forbid")

    project: _PathName = Field(description="The W&B project that the run is made in.", examples=["smart-home"])
    name: _Name | None = Field(None, description="The run's display name; default: the job's id.")
    entity: _PathName | None = Field(None, description="The W&B team or user; default: that of the server's key.")
    tags: list[_Tag] | None = Field(None, max_length=MAX_TAGS, description="Tags of the run.")


class Integration(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["wandb"]
    wandb: Wandb


class WandbBody(BaseModel):
    project: str
    name: str
    entity: str | None
    tags: list[str]
    run_id: str = Field(description="Of the run in W&B; all attempts of the job go on in it.")


class IntegrationBody(BaseModel):
    type: Literal["wandb"]
    wandb: WandbBody


def with_run_ids(asked: list[Integration], job_id: str) -> list[dict[str, Any]]:
    """As the job keeps them: everything resolved."""
    bodies = [
        IntegrationBody(
            type="wandb",
            wandb=WandbBody(
                project=each.wandb.project,
                name=each.wandb.name or job_id,
                entity=each.wandb.entity,
                tags=each.wandb.tags or [],
                run_id=wandb_run_id(job_id, number),
            ),
        )
        for number, each in enumerate(asked)
    ]
    return [body.model_dump() for body in bodies]


def refuse_without_wandb(settings: Settings) -> None:
    if settings.can_use_wandb:
        return
    if settings.wandb_mode == "disabled":
        reason = "Weights & Biases is switched off on this server (WANDB_MODE=disabled)"
    else:
        reason = (
            "This server is not authenticated with Weights & Biases. Its operator sets WANDB_API_KEY, or "
            "WANDB_MODE=offline to keep the metrics for `wandb sync`"
        )
    raise InvalidRequest(
        f"{reason}. Leave 'integrations' out to train without it.", param="integrations", code="wandb_not_authenticated"
    )
