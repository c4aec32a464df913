"""All SQL of organizations, projects and keys."""

import time
from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Select, and_, exists, or_, select, true, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.tables import ApiKeyRow, OrganizationRow, ProjectRow
from service.pagination import paginate

DEFAULT_ORGANIZATION_ID = "org-default"
DEFAULT_PROJECT_ID = "proj_default"
"""Made by the migrations: what is there when nobody has made another."""

USE_NOTED_EVERY_SECONDS = 60  # or every request would write


async def find_key(session: AsyncSession, sha256: str) -> ApiKeyRow | None:
    """A key that is neither revoked nor expired, and whose project, if it has one, is not archived."""
    row: ApiKeyRow | None = await session.scalar(
        select(ApiKeyRow)
        .outerjoin(ProjectRow, ProjectRow.id == ApiKeyRow.project_id)
        .where(
            ApiKeyRow.sha256 == sha256,
            ApiKeyRow.revoked_at.is_(None),
            or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > time.time()),
            ProjectRow.archived_at.is_(None),
        )
    )
    return row


async def note_use(session: AsyncSession, key: ApiKeyRow) -> None:
    now = time.time()
    if key.last_used_at is None or now - key.last_used_at >= USE_NOTED_EVERY_SECONDS:
        await session.execute(update(ApiKeyRow).where(ApiKeyRow.seq == key.seq).values(last_used_at=now))


async def has_keys(session: AsyncSession) -> bool:
    """Whether a key was ever made, revoked ones included: revoking the last one must not let everybody in."""
    return bool(await session.scalar(select(exists(select(ApiKeyRow.seq)))))


async def find_workplace(
    session: AsyncSession, organization_id: str, project_id: str | None
) -> tuple[OrganizationRow, ProjectRow] | None:
    """The organization and one of its projects that is not archived: the one named, or else its oldest."""
    statement = (
        select(OrganizationRow, ProjectRow)
        .join(ProjectRow, ProjectRow.organization_id == OrganizationRow.id)
        .where(OrganizationRow.id == organization_id, ProjectRow.archived_at.is_(None))
        .order_by(ProjectRow.seq)
        .limit(1)
    )
    if project_id is not None:
        statement = statement.where(ProjectRow.id == project_id)
    row = (await session.execute(statement)).one_or_none()
    return None if row is None else (row[0], row[1])


async def rename_organization(session: AsyncSession, organization_id: str, name: str) -> None:
    rename = update(OrganizationRow).where(OrganizationRow.id == organization_id, OrganizationRow.name != name)
    try:
        await session.execute(rename.values(name=name))
    except IntegrityError as error:
        raise ValueError(f"FETTLE_ORGANIZATION={name}: there is another organization with this name") from error


async def get_organization(session: AsyncSession, organization_id: str) -> OrganizationRow | None:
    row: OrganizationRow | None = await session.scalar(
        select(OrganizationRow).where(OrganizationRow.id == organization_id)
    )
    return row


async def add_organization(session: AsyncSession, organization: OrganizationRow) -> bool:
    """False: the name is taken, and this transaction can only be rolled back."""
    session.add(organization)
    try:
        await session.flush()
    except IntegrityError:
        return False
    return True


async def lock_organization(session: AsyncSession, organization_id: str) -> None:
    """Nobody else archives a project of it until this transaction ends."""
    await session.execute(select(OrganizationRow.seq).where(OrganizationRow.id == organization_id).with_for_update())


async def list_organizations(
    session: AsyncSession, *, after: str | None, limit: int
) -> tuple[list[OrganizationRow], bool]:
    return await paginate(session, select(OrganizationRow), OrganizationRow, true(), after=after, limit=limit)


async def get_project(session: AsyncSession, organization_id: str, project_id: str) -> ProjectRow | None:
    row: ProjectRow | None = await session.scalar(
        select(ProjectRow).where(ProjectRow.id == project_id, ProjectRow.organization_id == organization_id)
    )
    return row


async def find_active_projects(session: AsyncSession, organization_id: str, ids: Collection[str]) -> Sequence[str]:
    """Those of `ids` that are projects of the organization and not archived."""
    return list(await session.scalars(_active(organization_id).where(ProjectRow.id.in_(ids))))


async def has_other_active_project(session: AsyncSession, organization_id: str, project_id: str) -> bool:
    return await session.scalar(_active(organization_id).where(ProjectRow.id != project_id).limit(1)) is not None


async def list_projects(
    session: AsyncSession, organization_id: str, *, include_archived: bool, after: str | None, limit: int
) -> tuple[list[ProjectRow], bool]:
    projects = select(ProjectRow)
    if not include_archived:
        projects = projects.where(ProjectRow.archived_at.is_(None))
    scope = ProjectRow.organization_id == organization_id
    return await paginate(session, projects, ProjectRow, scope, after=after, limit=limit)


async def get_key(session: AsyncSession, organization_id: str, project_id: str | None, key_id: str) -> ApiKeyRow | None:
    """One that is not revoked; `project_id` None: an admin key."""
    row: ApiKeyRow | None = await session.scalar(
        select(ApiKeyRow).where(
            _is_key_of(organization_id, project_id), ApiKeyRow.id == key_id, ApiKeyRow.revoked_at.is_(None)
        )
    )
    return row


async def list_keys(
    session: AsyncSession,
    organization_id: str,
    project_id: str | None,
    *,
    after: str | None,
    limit: int,
    ascending: bool = False,
) -> tuple[list[ApiKeyRow], bool]:
    """Those that are not revoked; `project_id` None: the admin keys."""
    return await paginate(
        session,
        select(ApiKeyRow).where(ApiKeyRow.revoked_at.is_(None)),
        ApiKeyRow,
        _is_key_of(organization_id, project_id),
        after=after,
        limit=limit,
        ascending=ascending,
    )


def _active(organization_id: str) -> Select[str]:
    return select(ProjectRow.id).where(ProjectRow.organization_id == organization_id, ProjectRow.archived_at.is_(None))


def _is_key_of(organization_id: str, project_id: str | None) -> ColumnElement[bool]:
    of_project = ApiKeyRow.project_id.is_(None) if project_id is None else ApiKeyRow.project_id == project_id
    return and_(ApiKeyRow.organization_id == organization_id, of_project)
