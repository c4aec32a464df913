"""Who calls: an operator (a key of the settings, or anybody on a machine without keys) or a key of a project.

Endpoints name the role they need by the type of their `caller`: `Reader`, `Writer` or `Admin`.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, cast
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.engine import Sessions
from service.errors import AuthenticationError, PermissionDenied
from service.projects import repository
from service.projects.repository import DEFAULT_ORGANIZATION_ID
from service.projects.roles import Role
from service.settings import Settings, is_loopback

_bearer = HTTPBearer(auto_error=False, description="`Authorization: Bearer KEY`, as the OpenAI SDKs send it.")
_azure_header = APIKeyHeader(name="api-key", auto_error=False, description="The same key, as Azure's clients send it.")


@dataclass(frozen=True)
class Caller:
    """Who asks, and in which project: every query of the request is limited to it."""

    organization_id: str
    organization: str
    """Its name: the third part of a tuned model's name."""
    project_id: str
    role: Role
    key_id: str | None
    """None: an operator of this installation."""

    @property
    def is_operator(self) -> bool:
        return self.key_id is None


async def find_caller(request: Request) -> Caller:
    """Before the body is read: what a stranger sends is not even looked at. Raises AuthenticationError."""
    bearer, azure_key = await _bearer(request), await _azure_header(request)
    sessions: Sessions = request.app.state.sessions
    settings: Settings = request.app.state.settings
    async with sessions.begin() as session:
        caller = await authenticate(
            session,
            settings,
            azure_key if bearer is None else bearer.credentials,
            organization_id=request.headers.get("openai-organization") or None,
            project_id=request.headers.get("openai-project") or None,
        )
    if caller.is_operator and not settings.api_keys:
        _refuse_web_pages(request)
    return caller


def _refuse_web_pages(request: Request) -> None:
    """Without keys the programs of this machine are operators, but not the pages of others that its browser shows.

    A page can send requests to loopback, and with a name that it made resolve to loopback it could even read answers.
    """
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if not is_loopback(request.url.hostname or "") or (origin is not None and urlsplit(origin).netloc != host):
        raise PermissionDenied(
            f"This server has no API keys and answers only programs on its own machine, not a page of "
            f"{origin or host!r}. Set FETTLE_API_KEYS to let others in.",
            code="no_api_keys",
        )


async def _caller(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],  # both for the API's description only
    azure_key: Annotated[str | None, Depends(_azure_header)],
) -> Caller:
    return cast(Caller, request.state.caller)  # `ApiRoute` has put it there


async def authenticate(
    session: AsyncSession, settings: Settings, key: str | None, *, organization_id: str | None, project_id: str | None
) -> Caller:
    """`organization_id` and `project_id`: what the headers name. Raises AuthenticationError."""
    row = await repository.find_key(session, key_hash(key)) if key else None
    if row is None:
        if not await _is_operator(session, settings, key):
            raise _refused(key)
        return await _at_work(
            session, organization_id or DEFAULT_ORGANIZATION_ID, project_id, role=Role.ADMIN, key_id=None
        )
    await repository.note_use(session, row)
    if organization_id not in (None, row.organization_id):
        raise AuthenticationError(
            "OpenAI-Organization header should match organization for API key", code="mismatched_organization"
        )
    if row.project_id is not None and project_id not in (None, row.project_id):
        raise AuthenticationError("OpenAI-Project header should match project for API key", code="mismatched_project")
    return await _at_work(
        session, row.organization_id, row.project_id or project_id, role=Role(row.role), key_id=row.id
    )


async def _is_operator(session: AsyncSession, settings: Settings, key: str | None) -> bool:
    if settings.api_keys:
        # every key is compared, so that the time tells nothing
        matches = [
            hmac.compare_digest((key or "").encode(errors="replace"), known.get_secret_value().encode())
            for known in settings.api_keys
        ]
        return any(matches)
    return not await repository.has_keys(session)


async def _at_work(
    session: AsyncSession, organization_id: str, project_id: str | None, *, role: Role, key_id: str | None
) -> Caller:
    workplace = await repository.find_workplace(session, organization_id, project_id)
    if workplace is None:
        if project_id is None:
            raise AuthenticationError(f"No such organization: {organization_id}.", code="invalid_organization")
        raise AuthenticationError(
            f"No such project in organization {organization_id}: {project_id}.", code="invalid_project"
        )
    organization, project = workplace
    return Caller(organization.id, organization.name, project.id, role, key_id)


def key_hash(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()


def redacted(key: str) -> str:
    return f"{key[:3]}***{key[-4:]}" if len(key) > 12 else "***"


def _refused(key: str | None) -> AuthenticationError:
    if not key:
        return AuthenticationError(
            "You didn't provide an API key. Send it in the header 'Authorization: Bearer YOUR_KEY'."
        )
    return AuthenticationError(f"Incorrect API key provided: {redacted(key)}.")


def _with_role(role: Role) -> Callable[[Caller], Awaitable[Caller]]:
    async def check(caller: Reader) -> Caller:
        if not caller.role.includes(role):
            raise PermissionDenied(
                f"You have insufficient permissions for this operation: it needs a key with the role '{role}', and "
                f"yours has '{caller.role}'.",
                code="insufficient_permissions",
            )
        return caller

    return check


Reader = Annotated[Caller, Depends(_caller)]
Writer = Annotated[Caller, Depends(_with_role(Role.WRITER))]
Admin = Annotated[Caller, Depends(_with_role(Role.ADMIN))]
