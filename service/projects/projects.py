"""The rules of organizations and projects: what may be made, and what becomes of an archived project."""

import time

from sqlalchemy.ext.asyncio import AsyncSession

from service.auth import Caller
from service.database.tables import OrganizationRow, ProjectRow
from service.errors import InvalidRequest, NotFound, PermissionDenied
from service.ids import CURSOR_PATTERN, new_organization_id, new_project_id
from service.projects import repository

DEFAULT_PROJECT_NAME = "Default project"


def check_operator(caller: Caller) -> None:
    if not caller.is_operator:
        raise PermissionDenied(
            "You have insufficient permissions for this operation: organizations are managed by the operators of this "
            "server, with a key of its setting FETTLE_API_KEYS.",
            code="insufficient_permissions",
        )


async def create_organization(session: AsyncSession, name: str) -> OrganizationRow:
    """It is made with a first project."""
    row = OrganizationRow(id=new_organization_id(), created_at=time.time(), name=name)
    if not await repository.add_organization(session, row):
        raise InvalidRequest(f"There is an organization '{name}' already; choose another name.", param="name")
    create_project(session, row.id, DEFAULT_PROJECT_NAME)
    return row


async def get_organization(session: AsyncSession, organization_id: str) -> OrganizationRow:
    row = await repository.get_organization(session, organization_id) if _is_id(organization_id) else None
    if row is None:
        raise NotFound(f"No such organization: {organization_id}", param="organization_id")
    return row


def create_project(session: AsyncSession, organization_id: str, name: str) -> ProjectRow:
    row = ProjectRow(id=new_project_id(), organization_id=organization_id, created_at=time.time(), name=name)
    session.add(row)
    return row


async def get_project(session: AsyncSession, organization_id: str, project_id: str) -> ProjectRow:
    row = await repository.get_project(session, organization_id, project_id) if _is_id(project_id) else None
    if row is None:
        raise NotFound(f"No such project: {project_id}", param="project_id")
    return row


async def get_active_project(session: AsyncSession, organization_id: str, project_id: str) -> ProjectRow:
    row = await get_project(session, organization_id, project_id)
    if row.archived_at is not None:
        raise InvalidRequest(
            f"The project {project_id} is archived: it stays as it is.", param="project_id", code="project_archived"
        )
    return row


async def rename_project(session: AsyncSession, organization_id: str, project_id: str, name: str | None) -> ProjectRow:
    """None: it keeps its name."""
    row = await get_active_project(session, organization_id, project_id)
    row.name = name or row.name
    return row


async def archive_project(session: AsyncSession, organization_id: str, project_id: str) -> ProjectRow:
    """Safe to repeat. An organization keeps one project: without any, its admin keys would open nothing."""
    await repository.lock_organization(session, organization_id)
    row = await get_project(session, organization_id, project_id)
    if row.archived_at is not None:
        return row
    if not await repository.has_other_active_project(session, organization_id, project_id):
        raise InvalidRequest(
            f"The project {project_id} is the last one of its organization and cannot be archived; make another first.",
            param="project_id",
            code="last_project",
        )
    row.archived_at = time.time()
    return row


def _is_id(text: str) -> bool:
    return CURSOR_PATTERN.fullmatch(text) is not None
