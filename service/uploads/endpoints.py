"""`/v1/uploads`."""

from typing import Any

from fastapi import APIRouter, Request

from service.api_route import REPEATABLE
from service.auth import Writer
from service.dependencies import GivenIdempotency, NewSessions, Session, Storage
from service.uploads import uploads
from service.uploads.schemas import CompleteUpload, CreateUpload, Upload, UploadPart

router = APIRouter(prefix="/uploads", tags=["Uploads"])

# The body is parsed as it streams, so FastAPI cannot derive this from parameters.
_PART_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary", "description": "At most 64 MiB."}},
                }
            }
        },
    }
}


@router.post("")
async def create_upload(body: CreateUpload, caller: Writer, session: Session) -> Upload:
    """Begins an upload of up to 8 GiB, which makes a file once all its parts are there.

    Send the content in parts with `POST /v1/uploads/{upload_id}/parts`, then complete the upload. It expires an hour
    after its creation: until then it is completed, or its parts are removed.
    """
    return Upload.from_row(await uploads.create_upload(session, caller.project_id, body))


@router.post("/{upload_id}/parts", openapi_extra=_PART_BODY)
async def create_upload_part(
    upload_id: str,
    request: Request,
    caller: Writer,
    sessions: NewSessions,
    storage: Storage,
    idempotency: GivenIdempotency,
) -> UploadPart:
    """Adds a part of up to 64 MiB. Parts may be sent at once and in any order: the completion orders them.

    A part that is sent twice is two parts; the one that is not named when the upload is completed is removed.
    """
    content_type = request.headers.get("content-type")
    row = await uploads.create_part(
        sessions, storage, caller.project_id, upload_id, request.stream(), content_type, idempotency
    )
    return UploadPart.from_row(row)


@router.post("/{upload_id}/complete", openapi_extra={REPEATABLE: True})
async def complete_upload(
    upload_id: str, body: CompleteUpload, caller: Writer, sessions: NewSessions, storage: Storage
) -> Upload:
    """Makes the file, in `file`, from the parts in the order of `part_ids`.

    Their bytes must be as many as the upload was created with, and have the MD5 that is given, if any. A refused
    request changes nothing: parts can be added, and the upload completed again. A repeated one gets the same answer.
    """
    row, file = await uploads.complete_upload(sessions, storage, caller.project_id, upload_id, body)
    return Upload.from_row(row, file)


@router.post("/{upload_id}/cancel")
async def cancel_upload(upload_id: str, caller: Writer, session: Session) -> Upload:
    """Cancels a pending upload and removes its parts. No parts can be added after that."""
    return Upload.from_row(await uploads.cancel_upload(session, caller.project_id, upload_id))
