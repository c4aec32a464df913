"""The rules of checkpoint permissions: which models can be shared, and with whom."""

import time
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from service.checkpoint_permissions import repository
from service.database.tables import CheckpointPermissionRow, ModelRow
from service.errors import InvalidRequest, NotFound
from service.ids import CURSOR_PATTERN, new_permission_id
from service.models.models import no_such_model
from service.models.repository import lock_model
from service.projects.repository import find_active_projects
from tuning.catalogue import Catalogue


async def get_shared_model(session: AsyncSession, catalogue: Catalogue, organization_id: str, name: str) -> ModelRow:
    """Any tuned model or checkpoint of the organization: its admins decide for all of its projects."""
    if catalogue.get(name) is not None:
        raise InvalidRequest(
            f"The model '{name}' is a base model, which every project may use: it has no permissions.",
            param="fine_tuned_model_checkpoint",
        )
    row = await lock_model(session, organization_id, name)
    if row is None:
        raise no_such_model(name)
    return row


async def create_permissions(
    session: AsyncSession, organization_id: str, model: ModelRow, asked: Sequence[str]
) -> list[CheckpointPermissionRow]:
    """In the order asked for. Safe to repeat: a project that has a permission keeps it."""
    project_ids = list(dict.fromkeys(asked))
    await _check_projects(session, organization_id, model, project_ids)
    rows = {row.project_id: row for row in await repository.find_permissions(session, model.name, project_ids)}
    for project_id in project_ids:
        if project_id not in rows:
            rows[project_id] = CheckpointPermissionRow(
                id=new_permission_id(), model=model.name, project_id=project_id, created_at=time.time()
            )
            session.add(rows[project_id])
    return [rows[project_id] for project_id in project_ids]


async def delete_permission(session: AsyncSession, model: ModelRow, permission_id: str) -> None:
    is_id = CURSOR_PATTERN.fullmatch(permission_id) is not None
    if not (is_id and await repository.delete_permission(session, model.name, permission_id)):
        raise NotFound(f"No such checkpoint permission: {permission_id}", param="permission_id")


async def _check_projects(
    session: AsyncSession, organization_id: str, model: ModelRow, project_ids: Sequence[str]
) -> None:
    ids = [project_id for project_id in project_ids if CURSOR_PATTERN.fullmatch(project_id)]
    active = await find_active_projects(session, organization_id, ids)
    if missing := [project_id for project_id in project_ids if project_id not in active]:
        raise InvalidRequest(
            f"Your organization has no active project {', '.join(map(repr, missing))} - 'project_ids'",
            param="project_ids",
        )
    if model.project_id in project_ids:
        raise InvalidRequest(
            f"The model '{model.name}' belongs to {model.project_id}, which needs no permission - 'project_ids'",
            param="project_ids",
        )
