"""`/v1/files`."""

from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from service.auth import Reader, Writer
from service.dependencies import ConfiguredSettings, GivenIdempotency, NewSessions, Session, Storage
from service.files import files, repository
from service.files.ranges import parse_range
from service.files.schemas import PURPOSES, UPLOAD_PURPOSES, DeletedFile, File, FilePage
from service.pagination import After

router = APIRouter(prefix="/files", tags=["Files"])

# The body is parsed as it streams, so FastAPI cannot derive this from parameters.
_UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "dependentRequired": {
                        "expires_after[anchor]": ["expires_after[seconds]"],
                        "expires_after[seconds]": ["expires_after[anchor]"],
                    },
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(UPLOAD_PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": 3600,
                            "maximum": 2_592_000,
                            "description": "How long the file is kept after its creation. Needs the anchor.",
                        },
                    },
                }
            }
        },
    }
}

_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file.", "content": _BYTES},
    206: {"description": "The part that `Range` asks for.", "content": _BYTES},
}


@router.post("", openapi_extra=_UPLOAD_BODY)
async def create_file(
    request: Request,
    caller: Writer,
    sessions: NewSessions,
    storage: Storage,
    settings: ConfiguredSettings,
    idempotency: GivenIdempotency,
) -> File:
    """Uploads a file of up to 512 MB; larger ones go in parts, through `POST /v1/uploads`.

    It is streamed to object storage as it arrives. Training data has the purpose `fine-tune`. A file with
    `expires_after` is deleted by itself; batch files are, after 30 days, unless it says otherwise.
    """
    content_type = request.headers.get("content-type")
    row = await files.create_file(
        sessions, storage, caller.project_id, request.stream(), content_type, settings.max_file_bytes, idempotency
    )
    return File.from_row(row)


@router.get("")
async def list_files(
    caller: Reader,
    session: Session,
    purpose: Annotated[str | None, Query(description="Only files with this purpose.")] = None,
    order: Annotated[Literal["asc", "desc"], Query(description="By creation.")] = "desc",
    after: After = None,
    limit: Annotated[int, Query(ge=0, le=10_000, description="How many objects a page holds.")] = 10_000,
) -> FilePage:
    """Files, newest first unless `order` says otherwise. There are none with a purpose that does not exist."""
    if purpose is not None and purpose not in PURPOSES:
        return FilePage(data=[], first_id=None, last_id=None, has_more=False)
    rows, has_more = await repository.list_files(
        session, caller.project_id, purpose=purpose, after=after, limit=limit, ascending=order == "asc"
    )
    data = [File.from_row(row) for row in rows]
    return FilePage(
        data=data, first_id=data[0].id if data else None, last_id=data[-1].id if data else None, has_more=has_more
    )


@router.get("/{file_id}")
async def retrieve_file(file_id: str, caller: Reader, session: Session) -> File:
    """One file's description."""
    return File.from_row(await files.get_file(session, caller.project_id, file_id))


@router.delete("/{file_id}")
async def delete_file(file_id: str, caller: Writer, session: Session) -> DeletedFile:
    """Deletes a file and its bytes. A job that still needs it fails with `deleted_training_file`."""
    await files.delete_file(session, caller.project_id, file_id)
    return DeletedFile(id=file_id)


@router.get("/{file_id}/content", responses=_CONTENT, response_class=Response)
async def download_file(
    file_id: str,
    caller: Reader,
    session: Session,
    storage: Storage,
    range_header: Annotated[str | None, Header(alias="range", description="`bytes=0-1023`, for a part of it.")] = None,
) -> Response:
    """A file's bytes, or the part that `Range` asks for."""
    row = await files.get_file(session, caller.project_id, file_id)
    headers = {"accept-ranges": "bytes"}
    wanted = parse_range(range_header, row.bytes)
    start, end = wanted or (0, row.bytes)
    headers["content-length"] = str(end - start)
    if wanted is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{row.bytes}"
    return StreamingResponse(
        storage.get(files.storage_key(row.id), start, end),
        status_code=HTTPStatus.OK if wanted is None else HTTPStatus.PARTIAL_CONTENT,
        headers=headers,
        media_type="application/octet-stream",
    )
