"""Checkpoint permissions as OpenAI's clients send and read them."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.database.tables import CheckpointPermissionRow
from service.pagination import Identified

MAX_PROJECTS = 100


class CheckpointPermission(Identified):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "checkpoint.permission",
                    "id": "cp_zc4Q7MP6XxulcVzj4MZdwsAB",
                    "created_at": 1795263543,
                    "project_id": "proj_h4ZkT2vQ8sXnB6mR1wLcYdPf",
                }
            ]
        }
    )

    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    created_at: int
    project_id: str = Field(description="Who may use the model.")

    @classmethod
    def from_row(cls, row: CheckpointPermissionRow) -> Self:
        return cls(id=row.id, created_at=int(row.created_at), project_id=row.project_id)


class CreateCheckpointPermissions(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"project_ids": ["proj_h4ZkT2vQ8sXnB6mR1wLcYdPf"]}]}
    )

    project_ids: Annotated[
        list[Annotated[str, StringConstraints(max_length=64)]],
        Field(
            min_length=1,
            max_length=MAX_PROJECTS,
            description="Other projects of the organization. One that may use the model already stays as it is.",
        ),
    ]


class DeletedCheckpointPermission(BaseModel):
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    id: str
    deleted: Literal[True] = True
