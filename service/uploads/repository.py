"""All SQL of the uploads resource."""

from collections.abc import Mapping, Sequence

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.tables import UploadPartRow, UploadRow
from service.uploads.status import UploadStatus


async def get_upload(session: AsyncSession, project_id: str, upload_id: str, *, lock: bool = False) -> UploadRow | None:
    """With `lock`, nobody else changes the row until this transaction ends."""
    upload = select(UploadRow).where(UploadRow.id == upload_id, UploadRow.project_id == project_id)
    row: UploadRow | None = await session.scalar(upload.with_for_update() if lock else upload)
    return row


async def count_parts(session: AsyncSession, upload_id: str) -> int:
    count = select(func.count()).select_from(UploadPartRow).where(UploadPartRow.upload_id == upload_id)
    return await session.scalar(count) or 0


async def get_part_sizes(session: AsyncSession, upload_id: str) -> Mapping[str, int]:
    """Bytes by id."""
    parts = select(UploadPartRow.id, UploadPartRow.bytes).where(UploadPartRow.upload_id == upload_id)
    return dict((await session.execute(parts)).tuples().all())


async def expire_uploads(session: AsyncSession, before: float, limit: int) -> Sequence[str]:
    """Those that were pending at `before` although their time was over; returns their ids."""
    over = (
        select(UploadRow.seq)
        .where(UploadRow.status == UploadStatus.PENDING, UploadRow.expires_at <= before)
        .limit(limit)
        .with_for_update(skip_locked=True)  # PostgreSQL; on SQLite the statement is alone anyway
    )
    expire = update(UploadRow).where(UploadRow.seq.in_(over)).values(status=UploadStatus.EXPIRED)
    return list(await session.scalars(expire.returning(UploadRow.id)))
