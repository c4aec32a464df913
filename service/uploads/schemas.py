"""Uploads and their parts as OpenAI's clients send and read them."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.database.tables import FileRow, UploadPartRow, UploadRow
from service.files.schemas import ExpiresAfter, File, UploadPurpose
from service.multipart import MAX_FILENAME_CHARACTERS
from service.uploads.status import UploadStatus, status_of

MAX_UPLOAD_BYTES = 8 * 1024**3
MAX_PARTS = 10_000
"""Of 64 MiB, 128 make the largest upload: the limit only keeps lists short."""


class CreateUpload(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "filename": "train.jsonl",
                    "purpose": "fine-tune",
                    "bytes": 2147483648,
                    "mime_type": "application/jsonl",
                    "expires_after": {"anchor": "created_at", "seconds": 604800},
                }
            ]
        },
    )

    filename: str = Field(
        min_length=1, max_length=MAX_FILENAME_CHARACTERS, description="Of the finished file; a path is taken off."
    )
    purpose: UploadPurpose
    bytes: int = Field(
        ge=0, le=MAX_UPLOAD_BYTES, strict=True, description="The size of the finished file: the parts must make it up."
    )
    mime_type: Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{1,255}$")] = Field(
        description="Any; it is not looked at."
    )
    expires_after: ExpiresAfter | None = Field(None, description="How long the finished file is kept.")


class CompleteUpload(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "part_ids": ["part_6b5c0f8e4a7d41f2a9c3e1d07f6b8a52", "part_0d9a7c3e5f1b4826b0e4d2c6a8f1e375"],
                    "md5": "9e107d9d372bb6826bd81d3542a419d6",
                }
            ]
        },
    )

    part_ids: list[str] = Field(max_length=MAX_PARTS, description="The parts, in the order that makes the file.")
    md5: Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{32}$")] | None = Field(
        None, description="Of the whole file, 32 hexadecimal digits. A file with another one is refused."
    )


class Upload(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "upload",
                    "id": "upload_4f1d6c0a9b7e4a35b8c2d1e0f3a69758",
                    "bytes": 2147483648,
                    "created_at": 1795263543,
                    "expires_at": 1795267143,
                    "filename": "train.jsonl",
                    "purpose": "fine-tune",
                    "status": "pending",
                }
            ]
        }
    )

    object: Literal["upload"] = "upload"
    id: str
    bytes: int
    created_at: int
    expires_at: int = Field(description="Until then parts can be added and the upload be completed.")
    filename: str
    purpose: str
    status: UploadStatus
    file: File | None = Field(
        None, exclude_if=lambda value: value is None, description="Left out until the upload is completed."
    )

    @classmethod
    def from_row(cls, row: UploadRow, file: FileRow | None = None) -> Self:
        return cls(
            id=row.id,
            bytes=row.bytes,
            created_at=int(row.created_at),
            expires_at=int(row.expires_at),
            filename=row.filename,
            purpose=row.purpose,
            status=status_of(row),
            file=None if file is None else File.from_row(file),
        )


class UploadPart(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "upload.part",
                    "id": "part_6b5c0f8e4a7d41f2a9c3e1d07f6b8a52",
                    "created_at": 1795263601,
                    "upload_id": "upload_4f1d6c0a9b7e4a35b8c2d1e0f3a69758",
                }
            ]
        }
    )

    object: Literal["upload.part"] = "upload.part"
    id: str
    created_at: int
    upload_id: str

    @classmethod
    def from_row(cls, row: UploadPartRow) -> Self:
        return cls(id=row.id, created_at=int(row.created_at), upload_id=row.upload_id)
