"""The rules of files: what may be uploaded, and what happens to the bytes."""

import time
from collections.abc import AsyncIterator, Mapping

from sqlalchemy.ext.asyncio import AsyncSession

from service.database.engine import Sessions
from service.database.tables import FileRow
from service.errors import InvalidRequest, NotFound
from service.files import repository
from service.files.schemas import UPLOAD_PURPOSES
from service.ids import FILE_ID_PATTERN, new_file_id
from service.multipart import read_form
from service.object_storage.base import ObjectStorage


def storage_key(file_id: str) -> str:
    return f"files/{file_id}"


async def create_file(
    sessions: Sessions,
    storage: ObjectStorage,
    project_id: str,
    body: AsyncIterator[bytes],
    content_type: str | None,
    max_bytes: int,
) -> FileRow:
    """Streams the upload to storage, then makes its row: what has a row is whole."""
    form = await read_form(
        body, content_type, file_field="file", max_file_bytes=max_bytes, check_fields=_check_upload_fields
    )
    file_id = new_file_id()
    stored = await storage.put(storage_key(file_id), form.chunks)
    row = FileRow(
        id=file_id,
        project_id=project_id,
        created_at=time.time(),
        filename=form.filename,
        purpose=form.fields["purpose"],
        bytes=stored.bytes,
        sha256=stored.sha256,
    )
    async with sessions.begin() as session:
        session.add(row)
    return row


async def get_file(session: AsyncSession, project_id: str, file_id: str) -> FileRow:
    row = await repository.get_file(session, project_id, file_id) if FILE_ID_PATTERN.fullmatch(file_id) else None
    if row is None:
        raise NotFound(f"No such File object: {file_id}", param="id")
    return row


async def delete_file(session: AsyncSession, storage: ObjectStorage, project_id: str, file_id: str) -> None:
    """The bytes go first: a crash between leaves a row whose deletion can be asked for again."""
    row = await get_file(session, project_id, file_id)
    await storage.delete(storage_key(file_id))
    row.deleted_at = time.time()


def _check_upload_fields(fields: Mapping[str, str]) -> None:
    for name in fields:
        if name.startswith("expires_after"):
            raise InvalidRequest(
                "Files that expire are not available on this server yet; leave 'expires_after' out and delete the "
                "file when it is no longer needed.",
                param="expires_after",
            )
        if name != "purpose":
            raise InvalidRequest(f"Unknown parameter: '{name}'.", param=name)
    purpose = fields.get("purpose")
    if purpose is None:
        raise InvalidRequest("Missing required parameter: 'purpose'.", param="purpose")
    if purpose not in UPLOAD_PURPOSES:
        raise InvalidRequest(f"'{purpose}' is not one of {list(UPLOAD_PURPOSES)} - 'purpose'", param="purpose")
