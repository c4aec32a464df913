"""All SQL of organizations, projects and keys."""

import time

from sqlalchemy import exists, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.tables import ApiKeyRow, OrganizationRow, ProjectRow

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
    await session.execute(
        update(OrganizationRow)
        .where(OrganizationRow.id == organization_id, OrganizationRow.name != name)
        .values(name=name)
    )
