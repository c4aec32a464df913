"""All SQL of the files resource."""

import time
from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.tables import FileRow
from service.pagination import paginate


async def get_file(session: AsyncSession, project_id: str, file_id: str, *, lock: bool = False) -> FileRow | None:
    """With `lock`, nobody else changes the row until this transaction ends."""
    file = select(FileRow).where(FileRow.id == file_id, FileRow.project_id == project_id, _is_there())
    row: FileRow | None = await session.scalar(file.with_for_update() if lock else file)
    return row


async def list_files(
    session: AsyncSession, project_id: str, *, purpose: str | None, after: str | None, limit: int, ascending: bool
) -> tuple[list[FileRow], bool]:
    files = select(FileRow).where(_is_there())
    if purpose is not None:
        files = files.where(FileRow.purpose == purpose)
    return await paginate(
        session, files, FileRow, FileRow.project_id == project_id, after=after, limit=limit, ascending=ascending
    )


async def replace_file(session: AsyncSession, file: FileRow) -> None:
    """For files that the service makes under an id that is the same each time."""
    await session.execute(delete(FileRow).where(FileRow.id == file.id))
    session.add(file)


async def expire_files(session: AsyncSession, limit: int) -> Sequence[str]:
    """Deletes rows whose time is over, and returns their ids."""
    now = time.time()
    over = (
        select(FileRow.seq)
        .where(FileRow.expires_at <= now, FileRow.deleted_at.is_(None))
        .limit(limit)
        .with_for_update(skip_locked=True)  # PostgreSQL; on SQLite the statement is alone anyway
    )
    expire = update(FileRow).where(FileRow.seq.in_(over)).values(deleted_at=now).returning(FileRow.id)
    return list(await session.scalars(expire))


def _is_there() -> ColumnElement[bool]:
    """The sweeper comes later than the second in which a file expires."""
    return and_(FileRow.deleted_at.is_(None), or_(FileRow.expires_at.is_(None), FileRow.expires_at > time.time()))
