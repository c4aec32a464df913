"""All SQL of the files resource."""

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.tables import FileRow
from service.pagination import paginate


async def get_file(session: AsyncSession, project_id: str, file_id: str) -> FileRow | None:
    row: FileRow | None = await session.scalar(
        select(FileRow).where(FileRow.id == file_id, FileRow.project_id == project_id, FileRow.deleted_at.is_(None))
    )
    return row


async def list_files(
    session: AsyncSession, project_id: str, *, purpose: str | None, after: str | None, limit: int, ascending: bool
) -> tuple[list[FileRow], bool]:
    files = select(FileRow).where(FileRow.deleted_at.is_(None))
    if purpose is not None:
        files = files.where(FileRow.purpose == purpose)
    return await paginate(
        session, files, FileRow, FileRow.project_id == project_id, after=after, limit=limit, ascending=ascending
    )


async def replace_file(session: AsyncSession, file: FileRow) -> None:
    """For files that the service makes under an id that is the same each time."""
    await session.execute(delete(FileRow).where(FileRow.id == file.id))
    session.add(file)
