"""The rules of files: what may be uploaded, how long it is kept, and what happens to the bytes."""

import time
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from http import HTTPStatus

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.engine import Sessions
from service.database.tables import FileRow
from service.errors import InvalidRequest, NotFound, describe_validation_errors
from service.files import repository
from service.files.schemas import UPLOAD_PURPOSES, ExpiresAfter, File
from service.idempotency import Idempotency
from service.ids import FILE_ID_PATTERN, new_file_id
from service.multipart import read_form
from service.object_storage.base import ObjectStorage
from service.removals.new_object import new_object
from service.removals.repository import add_removals

BATCH_FILES_KEPT = timedelta(days=30)
"""Files with the purpose `batch` that say nothing else; all others are kept."""

_FORM_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")


def storage_key(file_id: str) -> str:
    return f"files/{file_id}"


async def create_file(
    sessions: Sessions,
    storage: ObjectStorage,
    project_id: str,
    body: AsyncIterator[bytes],
    content_type: str | None,
    max_bytes: int,
    idempotency: Idempotency | None,
) -> FileRow:
    """Streams the upload to storage, then makes its row: what has a row is whole."""
    form = await read_form(
        body,
        content_type,
        file_field="file",
        max_file_bytes=max_bytes,
        too_large="Send it in parts, with POST /v1/uploads.",
        check_fields=_check_upload_fields,
    )
    file_id = new_file_id()
    async with new_object(sessions, storage_key(file_id)) as new:
        stored = await storage.put(new.key, form.chunks)
        created_at, purpose = time.time(), form.fields["purpose"]
        row = FileRow(
            id=file_id,
            project_id=project_id,
            created_at=created_at,
            filename=form.filename,
            purpose=purpose,
            bytes=stored.bytes,
            sha256=stored.sha256,
            expires_at=end_of(purpose, _expires_after(form.fields), created_at),
        )
        async with sessions.begin() as session:
            if idempotency is not None:
                await idempotency.take(session, f"{sorted(form.fields.items())} {form.filename} {stored.sha256}")
                await idempotency.keep(HTTPStatus.OK, File.from_row(row).model_dump_json().encode())
            session.add(row)
            await new.keep(session)
    return row


async def get_file(session: AsyncSession, project_id: str, file_id: str, *, lock: bool = False) -> FileRow:
    is_id = FILE_ID_PATTERN.fullmatch(file_id) is not None
    row = await repository.get_file(session, project_id, file_id, lock=lock) if is_id else None
    if row is None:
        raise NotFound(f"No such File object: {file_id}", param="id")
    return row


async def delete_file(session: AsyncSession, project_id: str, file_id: str) -> None:
    """It is gone with the commit; the sweeper removes the bytes."""
    row = await get_file(session, project_id, file_id, lock=True)
    row.deleted_at = time.time()
    add_removals(session, [storage_key(file_id)])


async def expire_files(session: AsyncSession, limit: int) -> int:
    """Deletes up to `limit` files whose time is over, and says how many there were."""
    ids = await repository.expire_files(session, limit)
    add_removals(session, [storage_key(file_id) for file_id in ids])
    return len(ids)


async def get_input_file(session: AsyncSession, project_id: str, file_id: str, *, purpose: str, param: str) -> FileRow:
    """The file that a request names to work on; `param` is the field that names it. Raises InvalidRequest."""
    if not FILE_ID_PATTERN.fullmatch(file_id):
        raise InvalidRequest(f"invalid {param}: Invalid File Name", param=param)
    row = await repository.get_file(session, project_id, file_id)
    if row is None:
        raise InvalidRequest(
            f"invalid {param}: File {file_id} does not exist or was deleted. Upload it with POST /v1/files.",
            param=param,
        )
    if row.purpose != purpose:
        raise InvalidRequest(
            f"invalid {param}: File {file_id} has purpose '{row.purpose}'; upload it again with purpose '{purpose}'.",
            param=param,
        )
    return row


def end_of(purpose: str, kept_seconds: int | None, created_at: float) -> float | None:
    """When the file expires; None: never."""
    if kept_seconds is None and purpose == "batch":
        return created_at + BATCH_FILES_KEPT.total_seconds()
    return None if kept_seconds is None else created_at + kept_seconds


def _check_upload_fields(fields: Mapping[str, str]) -> None:
    for name in fields:
        if name not in _FORM_FIELDS:
            raise InvalidRequest(f"Unknown parameter: '{name}'.", param=name)
    purpose = fields.get("purpose")
    if purpose is None:
        raise InvalidRequest("Missing required parameter: 'purpose'.", param="purpose")
    if purpose not in UPLOAD_PURPOSES:
        raise InvalidRequest(f"'{purpose}' is not one of {list(UPLOAD_PURPOSES)} - 'purpose'", param="purpose")
    _expires_after(fields)


def _expires_after(fields: Mapping[str, str]) -> int | None:
    """Seconds."""
    given = {
        name.removeprefix("expires_after[").removesuffix("]"): value
        for name, value in fields.items()
        if name.startswith("expires_after[")
    }
    if not given:
        return None
    try:
        return ExpiresAfter.model_validate_strings(given).seconds
    except ValidationError as refusal:
        errors = [{**error, "loc": ("form", "expires_after", *error["loc"])} for error in refusal.errors()]
        raise describe_validation_errors(errors, None) from None
