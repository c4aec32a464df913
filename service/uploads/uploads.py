"""The rules of uploads: parts arrive in any order and at once, and become one file in the order that is asked for.

Each part is an object of its own until then: it can be checked, left out and put elsewhere, and a completion that is
refused or dies changes nothing. No transaction is open while bytes move, so what was found before is looked at again,
under the row's lock, when a part or the file gets its row.
"""

import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus

from sqlalchemy.ext.asyncio import AsyncSession

from service.database.engine import Sessions
from service.database.tables import FileRow, UploadPartRow, UploadRow
from service.errors import MAX_SHOWN_CHARACTERS, InvalidRequest, NotFound
from service.files.files import end_of, storage_key
from service.files.repository import get_file
from service.idempotency import Idempotency
from service.ids import UPLOAD_ID_PATTERN, new_file_id, new_upload_id, new_upload_part_id
from service.multipart import clean_filename, read_form
from service.object_storage.base import (
    DigestMismatch,
    ObjectNotFound,
    ObjectStorage,
    PutResult,
    StorageUnavailable,
    StoredObject,
)
from service.removals.new_object import new_object
from service.removals.repository import add_removals
from service.uploads import repository
from service.uploads.schemas import MAX_PARTS, CompleteUpload, CreateUpload, UploadPart
from service.uploads.status import UploadStatus, status_of

TIME_TO_COMPLETE = timedelta(hours=1)
"""Between creation and the last moment in which a completion may begin."""

TIME_TO_CONCATENATE = timedelta(hours=1)
"""How long the parts of an expired upload stay: a completion that began in time still reads them."""

MAX_PART_BYTES = 64 * 1024 * 1024


async def create_upload(session: AsyncSession, project_id: str, asked: CreateUpload) -> UploadRow:
    now = time.time()
    row = UploadRow(
        id=new_upload_id(),
        project_id=project_id,
        created_at=now,
        expires_at=now + TIME_TO_COMPLETE.total_seconds(),
        filename=clean_filename(asked.filename, param="filename"),
        purpose=asked.purpose,
        mime_type=asked.mime_type,
        bytes=asked.bytes,
        file_expires_after=asked.expires_after.seconds if asked.expires_after else None,
        status=UploadStatus.PENDING,
    )
    session.add(row)
    return row


async def create_part(
    sessions: Sessions,
    storage: ObjectStorage,
    project_id: str,
    upload_id: str,
    body: AsyncIterator[bytes],
    content_type: str | None,
    idempotency: Idempotency | None,
) -> UploadPartRow:
    """Streams the part to storage, then makes its row: what has a row is whole."""
    async with sessions.begin() as session:
        _check_pending(await _get_upload(session, project_id, upload_id), "take another part")
        if await repository.count_parts(session, upload_id) >= MAX_PARTS:
            raise InvalidRequest(f"Upload {upload_id} has {MAX_PARTS:,} parts, which is the limit. Send larger parts.")
    form = await read_form(
        body,
        content_type,
        file_field="data",
        max_file_bytes=MAX_PART_BYTES,
        too_large="Send smaller parts.",
        check_fields=_refuse_fields,
    )
    part_id = new_upload_part_id()
    async with new_object(sessions, _part_key(upload_id, part_id)) as new:
        stored = await storage.put(new.key, form.chunks)
        row = UploadPartRow(id=part_id, upload_id=upload_id, created_at=time.time(), bytes=stored.bytes)
        async with sessions.begin() as session:
            if idempotency is not None:
                await idempotency.take(session, stored.sha256)
                await idempotency.keep(HTTPStatus.OK, UploadPart.from_row(row).model_dump_json().encode())
            _check_pending(await _get_upload(session, project_id, upload_id, lock=True), "take another part")
            session.add(row)
            await new.keep(session)
    return row


async def complete_upload(
    sessions: Sessions, storage: ObjectStorage, project_id: str, upload_id: str, asked: CompleteUpload
) -> tuple[UploadRow, FileRow | None]:
    """The upload and its file, which is None when it was deleted since. The same request may come again, also while the
    first one is under way: each makes an object of its own, and the first to end makes the file."""
    async with sessions.begin() as session:
        upload = await _get_upload(session, project_id, upload_id)
        if status_of(upload) != UploadStatus.PENDING:
            return await _answer_again(session, upload, asked)
        parts = _in_order(upload, asked.part_ids, await repository.get_part_sizes(session, upload_id))
    file_id = new_file_id()
    async with new_object(sessions, storage_key(file_id)) as new:
        stored = await _concatenate(storage, new.key, parts, asked.md5)
        async with sessions.begin() as session:
            upload = await _get_upload(session, project_id, upload_id, lock=True)
            if upload.status != UploadStatus.PENDING:
                return await _answer_again(session, upload, asked)
            if stored is None:
                raise StorageUnavailable(f"parts of {upload_id} are not in storage")
            file = _make_file(upload, file_id, stored)
            upload.status, upload.file_id = UploadStatus.COMPLETED, file.id
            upload.completion_sha256 = _fingerprint(asked)
            session.add(file)
            add_removals(session, [_parts_prefix(upload_id)])
            await new.keep(session)
    return upload, file


async def cancel_upload(session: AsyncSession, project_id: str, upload_id: str) -> UploadRow:
    """Safe to repeat. The sweeper removes the parts."""
    upload = await _get_upload(session, project_id, upload_id, lock=True)
    if upload.status != UploadStatus.CANCELLED:
        _check_pending(upload, "be cancelled")
        upload.status = UploadStatus.CANCELLED
        add_removals(session, [_parts_prefix(upload_id)])
    return upload


async def expire_uploads(session: AsyncSession, limit: int) -> int:
    """Ends up to `limit` uploads that nobody can complete any more, and says how many there were."""
    ids = await repository.expire_uploads(session, time.time() - TIME_TO_CONCATENATE.total_seconds(), limit)
    add_removals(session, [_parts_prefix(upload_id) for upload_id in ids])
    return len(ids)


async def _get_upload(session: AsyncSession, project_id: str, upload_id: str, *, lock: bool = False) -> UploadRow:
    is_id = UPLOAD_ID_PATTERN.fullmatch(upload_id) is not None
    row = await repository.get_upload(session, project_id, upload_id, lock=lock) if is_id else None
    if row is None:
        raise NotFound(f"No such Upload object: {upload_id}", param="upload_id")
    return row


def _check_pending(upload: UploadRow, action: str) -> None:
    status = status_of(upload)
    if status != UploadStatus.PENDING:
        raise InvalidRequest(f"Upload {upload.id} is {status} and cannot {action}. Create a new upload.")


def _in_order(upload: UploadRow, part_ids: Sequence[str], sizes: Mapping[str, int]) -> list[StoredObject]:
    """Raises InvalidRequest unless they are different parts of this upload and make up its bytes."""
    for part_id in part_ids:
        if part_id not in sizes:
            shown = part_id[:MAX_SHOWN_CHARACTERS]
            raise InvalidRequest(f"Upload {upload.id} has no part '{shown}' - 'part_ids'", param="part_ids")
    for part_id, count in Counter(part_ids).items():
        if count > 1:
            raise InvalidRequest(f"'{part_id}' is given {count} times - 'part_ids'", param="part_ids")
    total = sum(sizes[part_id] for part_id in part_ids)
    if total != upload.bytes:
        raise InvalidRequest(
            f"The parts have {total:,} bytes together, but the upload was created with {upload.bytes:,}. Nothing was "
            "changed: add the parts that are missing, or leave out those that are too many.",
            param="part_ids",
        )
    return [StoredObject(_part_key(upload.id, part_id), sizes[part_id]) for part_id in part_ids]


async def _concatenate(
    storage: ObjectStorage, key: str, parts: Sequence[StoredObject], md5: str | None
) -> PutResult | None:
    """None: parts are gone, as they are when somebody else ended the upload meanwhile."""
    try:
        return await storage.concatenate(key, parts, md5=md5)
    except ObjectNotFound:
        return None
    except DigestMismatch as mismatch:
        raise InvalidRequest(
            f"The parts make a file with the MD5 {mismatch.md5}, not {md5}. Nothing was changed: send the part that is "
            "wrong again, or correct the order of 'part_ids'.",
            param="md5",
        ) from None


def _make_file(upload: UploadRow, file_id: str, stored: PutResult) -> FileRow:
    created_at = time.time()
    return FileRow(
        id=file_id,
        project_id=upload.project_id,
        created_at=created_at,
        filename=upload.filename,
        purpose=upload.purpose,
        bytes=stored.bytes,
        sha256=stored.sha256,
        expires_at=end_of(upload.purpose, upload.file_expires_after, created_at),
    )


async def _answer_again(
    session: AsyncSession, upload: UploadRow, asked: CompleteUpload
) -> tuple[UploadRow, FileRow | None]:
    """What the request was told that completed the upload; any other one is refused."""
    if upload.completion_sha256 != _fingerprint(asked):
        _check_pending(upload, "be completed")
    assert upload.file_id is not None
    return upload, await get_file(session, upload.project_id, upload.file_id)


def _fingerprint(asked: CompleteUpload) -> str:
    return hashlib.sha256(asked.model_dump_json().encode()).hexdigest()


def _parts_prefix(upload_id: str) -> str:
    return f"uploads/{upload_id}/"


def _part_key(upload_id: str, part_id: str) -> str:
    return f"{_parts_prefix(upload_id)}{part_id}"


def _refuse_fields(fields: Mapping[str, str]) -> None:
    for name in fields:
        raise InvalidRequest(f"Unknown parameter: '{name}'.", param=name)
