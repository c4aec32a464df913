"""`/v1/organizations`, `/v1/organization/projects` with their keys, and `/v1/organization/admin_api_keys`."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from service.api_route import ONCE_SHOWN
from service.auth import Admin
from service.dependencies import ConfiguredSettings, Session
from service.pagination import After, PageWithEnds
from service.projects import keys, projects, repository
from service.projects.schemas import (
    AdminApiKey,
    CreateAdminApiKey,
    CreatedAdminApiKey,
    CreatedProjectApiKey,
    CreateOrganization,
    CreateProject,
    CreateProjectApiKey,
    DeletedAdminApiKey,
    DeletedProjectApiKey,
    Organization,
    Project,
    ProjectApiKey,
    UpdateProject,
    UpdateProjectApiKey,
)

router = APIRouter(tags=["Projects and keys"])

Limit = Annotated[int, Query(ge=0, le=100, description="How many objects a page holds.")]


@router.post("/organizations")
async def create_organization(body: CreateOrganization, caller: Admin, session: Session) -> Organization:
    """Makes an organization with a first project. An extension of OpenAI's API, for this server's operators.

    Work in it by sending its id as `OpenAI-Organization`, or make an admin key there and hand it over. Organizations
    see nothing of each other.
    """
    projects.check_operator(caller)
    return Organization.from_row(await projects.create_organization(session, body.name))


@router.get("/organizations")
async def list_organizations(
    caller: Admin, session: Session, after: After = None, limit: Limit = 20
) -> PageWithEnds[Organization]:
    """Organizations, newest first. An extension of OpenAI's API, for this server's operators."""
    projects.check_operator(caller)
    rows, has_more = await repository.list_organizations(session, after=after, limit=limit)
    return PageWithEnds.of([Organization.from_row(row) for row in rows], has_more)


@router.get("/organizations/{organization_id}")
async def retrieve_organization(organization_id: str, caller: Admin, session: Session) -> Organization:
    """One organization. An extension of OpenAI's API, for this server's operators."""
    projects.check_operator(caller)
    return Organization.from_row(await projects.get_organization(session, organization_id))


@router.post("/organization/projects")
async def create_project(body: CreateProject, caller: Admin, session: Session) -> Project:
    """Makes a project in the caller's organization. Its files, jobs and models are seen by its own keys only."""
    row = projects.create_project(session, caller.organization_id, body.name)
    return Project.from_row(row)


@router.get("/organization/projects")
async def list_projects(
    caller: Admin,
    session: Session,
    include_archived: Annotated[bool, Query(description="Archived projects, too.")] = False,
    after: After = None,
    limit: Limit = 20,
) -> PageWithEnds[Project]:
    """The organization's projects, newest first."""
    rows, has_more = await repository.list_projects(
        session, caller.organization_id, include_archived=include_archived, after=after, limit=limit
    )
    return PageWithEnds.of([Project.from_row(row) for row in rows], has_more)


@router.get("/organization/projects/{project_id}")
async def retrieve_project(project_id: str, caller: Admin, session: Session) -> Project:
    """One project of the organization, also an archived one."""
    return Project.from_row(await projects.get_project(session, caller.organization_id, project_id))


@router.post("/organization/projects/{project_id}")
async def update_project(project_id: str, body: UpdateProject, caller: Admin, session: Session) -> Project:
    """Renames a project."""
    return Project.from_row(await projects.rename_project(session, caller.organization_id, project_id, body.name))


@router.post("/organization/projects/{project_id}/archive")
async def archive_project(project_id: str, caller: Admin, session: Session) -> Project:
    """Archives a project, which cannot be undone.

    From the next request on its keys open nothing and its models answer nobody. Its data stays, and jobs that were
    already created run to their end. The last active project of an organization cannot be archived.
    """
    return Project.from_row(await projects.archive_project(session, caller.organization_id, project_id))


@router.post("/organization/projects/{project_id}/api_keys", openapi_extra={ONCE_SHOWN: True})
async def create_project_api_key(
    project_id: str, body: CreateProjectApiKey, caller: Admin, session: Session, settings: ConfiguredSettings
) -> CreatedProjectApiKey:
    """Makes a key of a project. An extension: OpenAI makes project keys on its website only.

    `value` is the key, and this answer the only place where it is ever shown. On a server without FETTLE_API_KEYS the
    first key of all must be an admin key.
    """
    row, project, key = await keys.create_project_key(session, settings, caller, project_id, body)
    return CreatedProjectApiKey.of(row, project, key)


@router.get("/organization/projects/{project_id}/api_keys")
async def list_project_api_keys(
    project_id: str,
    caller: Admin,
    session: Session,
    owner_project_access: Annotated[
        Literal["active", "inactive", "any"], Query(description="Only the keys of an active or an archived project.")
    ] = "any",
    after: After = None,
    limit: Limit = 20,
) -> PageWithEnds[ProjectApiKey]:
    """A project's keys, newest first; expired ones stay until they are deleted."""
    project = await projects.get_project(session, caller.organization_id, project_id)
    access = "active" if project.archived_at is None else "inactive"
    if owner_project_access not in ("any", access):
        return PageWithEnds.of([], has_more=False)
    rows, has_more = await repository.list_keys(session, caller.organization_id, project_id, after=after, limit=limit)
    return PageWithEnds.of([ProjectApiKey.from_row(row, project) for row in rows], has_more)


@router.get("/organization/projects/{project_id}/api_keys/{api_key_id}")
async def retrieve_project_api_key(project_id: str, api_key_id: str, caller: Admin, session: Session) -> ProjectApiKey:
    """One key of a project, without its value."""
    row, project = await keys.get_project_key(session, caller.organization_id, project_id, api_key_id)
    return ProjectApiKey.from_row(row, project)


@router.post("/organization/projects/{project_id}/api_keys/{api_key_id}")
async def update_project_api_key(
    project_id: str, api_key_id: str, body: UpdateProjectApiKey, caller: Admin, session: Session
) -> ProjectApiKey:
    """Changes when a key expires, counted from now, or its role. An expired key stays expired."""
    row, project = await keys.update_project_key(session, caller.organization_id, project_id, api_key_id, body)
    return ProjectApiKey.from_row(row, project)


@router.delete("/organization/projects/{project_id}/api_keys/{api_key_id}")
async def delete_project_api_key(
    project_id: str, api_key_id: str, caller: Admin, session: Session
) -> DeletedProjectApiKey:
    """Revokes a key: from the next request on it opens nothing."""
    await keys.revoke_project_key(session, caller.organization_id, project_id, api_key_id)
    return DeletedProjectApiKey(id=api_key_id)


@router.post("/organization/admin_api_keys", openapi_extra={ONCE_SHOWN: True})
async def create_admin_api_key(body: CreateAdminApiKey, caller: Admin, session: Session) -> CreatedAdminApiKey:
    """Makes an admin key, which manages the organization and works in any of its projects (`OpenAI-Project`).

    `value` is the key, and this answer the only place where it is ever shown. On a server without FETTLE_API_KEYS the
    first key closes the doors: from then on every request needs a key.
    """
    row, key = keys.create_admin_key(session, caller, body)
    return CreatedAdminApiKey.of(row, key)


@router.get("/organization/admin_api_keys")
async def list_admin_api_keys(
    caller: Admin,
    session: Session,
    order: Annotated[Literal["asc", "desc"], Query(description="By creation.")] = "asc",
    after: After = None,
    limit: Limit = 20,
) -> PageWithEnds[AdminApiKey]:
    """The organization's admin keys, oldest first unless `order` says otherwise."""
    rows, has_more = await repository.list_keys(
        session, caller.organization_id, None, after=after, limit=limit, ascending=order == "asc"
    )
    return PageWithEnds.of([AdminApiKey.from_row(row) for row in rows], has_more)


@router.get("/organization/admin_api_keys/{key_id}")
async def retrieve_admin_api_key(key_id: str, caller: Admin, session: Session) -> AdminApiKey:
    """One admin key, without its value."""
    return AdminApiKey.from_row(await keys.get_admin_key(session, caller.organization_id, key_id))


@router.delete("/organization/admin_api_keys/{key_id}")
async def delete_admin_api_key(key_id: str, caller: Admin, session: Session) -> DeletedAdminApiKey:
    """Revokes an admin key: from the next request on it opens nothing."""
    await keys.revoke_admin_key(session, caller.organization_id, key_id)
    return DeletedAdminApiKey(id=key_id)
