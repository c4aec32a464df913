"""`/v1/fine_tuning/checkpoints/{name}/permissions`.

A model's name reaches these routes decoded and whole, a slash in it included, which no name has: it is not found.
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from service.auth import Admin
from service.checkpoint_permissions import permissions, repository
from service.checkpoint_permissions.schemas import (
    CheckpointPermission,
    CreateCheckpointPermissions,
    DeletedCheckpointPermission,
)
from service.dependencies import LoadedCatalogue, Session
from service.ids import CURSOR_PATTERN
from service.pagination import After, PageWithEnds

router = APIRouter(
    prefix="/fine_tuning/checkpoints/{fine_tuned_model_checkpoint:path}/permissions", tags=["Fine-tuning"]
)


@router.post("")
async def create_checkpoint_permissions(
    fine_tuned_model_checkpoint: str,
    body: CreateCheckpointPermissions,
    caller: Admin,
    session: Session,
    catalogue: LoadedCatalogue,
) -> PageWithEnds[CheckpointPermission]:
    """Lets other projects of the organization use a tuned model or a checkpoint, and train on from it.

    Answers the permissions of the projects named. They hold until they are deleted, or the model is. It needs an admin
    key, which manages the models of all projects of its organization.
    """
    model = await permissions.get_shared_model(session, catalogue, caller.organization_id, fine_tuned_model_checkpoint)
    rows = await permissions.create_permissions(session, caller.organization_id, model, body.project_ids)
    return PageWithEnds.of([CheckpointPermission.from_row(row) for row in rows], has_more=False)


@router.get("")
async def list_checkpoint_permissions(
    fine_tuned_model_checkpoint: str,
    caller: Admin,
    session: Session,
    catalogue: LoadedCatalogue,
    project_id: Annotated[str | None, Query(description="Only this project's.")] = None,
    after: After = None,
    limit: Annotated[int, Query(ge=0, le=100, description="How many objects a page holds.")] = 10,
    order: Annotated[Literal["ascending", "descending"], Query(description="By creation.")] = "descending",
) -> PageWithEnds[CheckpointPermission]:
    """Which other projects may use a model, newest permission first unless `order` says otherwise."""
    model = await permissions.get_shared_model(session, catalogue, caller.organization_id, fine_tuned_model_checkpoint)
    if project_id is not None and not CURSOR_PATTERN.fullmatch(project_id):
        return PageWithEnds.of([], has_more=False)
    rows, has_more = await repository.list_permissions(
        session, model.name, project_id=project_id, after=after, limit=limit, ascending=order == "ascending"
    )
    return PageWithEnds.of([CheckpointPermission.from_row(row) for row in rows], has_more)


@router.delete("/{permission_id}")
async def delete_checkpoint_permission(
    fine_tuned_model_checkpoint: str, permission_id: str, caller: Admin, session: Session, catalogue: LoadedCatalogue
) -> DeletedCheckpointPermission:
    """Ends a permission: from its next request on, the other project's keys find no such model."""
    model = await permissions.get_shared_model(session, catalogue, caller.organization_id, fine_tuned_model_checkpoint)
    await permissions.delete_permission(session, model, permission_id)
    return DeletedCheckpointPermission(id=permission_id)
