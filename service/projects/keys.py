"""The rules of API keys: who may have one, what is kept of it, and that the first one is an admin's."""

import time

from sqlalchemy.ext.asyncio import AsyncSession

from service.auth import Caller, key_hash, redacted
from service.database.tables import ApiKeyRow, ProjectRow
from service.errors import InvalidRequest, NotFound
from service.ids import CURSOR_PATTERN, new_key, new_key_id
from service.projects import repository
from service.projects.projects import get_active_project, get_project
from service.projects.roles import Role
from service.projects.schemas import CreateAdminApiKey, CreateProjectApiKey, UpdateProjectApiKey
from service.settings import Settings


def create_admin_key(session: AsyncSession, caller: Caller, asked: CreateAdminApiKey) -> tuple[ApiKeyRow, str]:
    """The row, and the key itself, which is kept nowhere."""
    return _new_key(session, caller.organization_id, None, asked.name, Role.ADMIN, asked.expires_in_seconds)


async def create_project_key(
    session: AsyncSession, settings: Settings, caller: Caller, project_id: str, asked: CreateProjectApiKey
) -> tuple[ApiKeyRow, ProjectRow, str]:
    project = await get_active_project(session, caller.organization_id, project_id)
    if not settings.api_keys and not await repository.has_keys(session):
        raise InvalidRequest(
            "The first key closes this server to callers without one: nobody could manage it any more. Make an admin "
            "key first (POST /v1/organization/admin_api_keys), or set FETTLE_API_KEYS.",
            code="admin_key_first",
        )
    role = Role(asked.role)
    row, key = _new_key(session, project.organization_id, project.id, asked.name, role, asked.expires_in_seconds)
    return row, project, key


async def get_admin_key(session: AsyncSession, organization_id: str, key_id: str) -> ApiKeyRow:
    return await _get_key(session, organization_id, None, key_id, param="key_id")


async def get_project_key(
    session: AsyncSession, organization_id: str, project_id: str, key_id: str
) -> tuple[ApiKeyRow, ProjectRow]:
    project = await get_project(session, organization_id, project_id)
    return await _get_key(session, organization_id, project_id, key_id, param="api_key_id"), project


async def update_project_key(
    session: AsyncSession, organization_id: str, project_id: str, key_id: str, asked: UpdateProjectApiKey
) -> tuple[ApiKeyRow, ProjectRow]:
    project = await get_active_project(session, organization_id, project_id)
    row = await _get_key(session, organization_id, project_id, key_id, param="api_key_id")
    if row.expires_at is not None and row.expires_at <= time.time():
        raise InvalidRequest(
            f"The key {key_id} has expired and stays so; make a new one.", param="api_key_id", code="key_expired"
        )
    row.expires_at = _expiry(asked.expires_in_seconds) or row.expires_at
    row.role = asked.role or row.role
    return row, project


async def revoke_admin_key(session: AsyncSession, organization_id: str, key_id: str) -> None:
    """From the next request on it opens nothing."""
    (await get_admin_key(session, organization_id, key_id)).revoked_at = time.time()


async def revoke_project_key(session: AsyncSession, organization_id: str, project_id: str, key_id: str) -> None:
    row, _ = await get_project_key(session, organization_id, project_id, key_id)
    row.revoked_at = time.time()


def _new_key(
    session: AsyncSession,
    organization_id: str,
    project_id: str | None,
    name: str,
    role: Role,
    expires_in_seconds: int | None,
) -> tuple[ApiKeyRow, str]:
    key = new_key()
    row = ApiKeyRow(
        id=new_key_id(),
        organization_id=organization_id,
        project_id=project_id,
        created_at=time.time(),
        name=name,
        role=role,
        sha256=key_hash(key),
        redacted_value=redacted(key),
        expires_at=_expiry(expires_in_seconds),
    )
    session.add(row)
    return row, key


async def _get_key(
    session: AsyncSession, organization_id: str, project_id: str | None, key_id: str, *, param: str
) -> ApiKeyRow:
    is_id = CURSOR_PATTERN.fullmatch(key_id) is not None
    row = await repository.get_key(session, organization_id, project_id, key_id) if is_id else None
    if row is None:
        raise NotFound(f"No such API key: {key_id}", param=param)
    return row


def _expiry(expires_in_seconds: int | None) -> float | None:
    return None if expires_in_seconds is None else time.time() + expires_in_seconds
