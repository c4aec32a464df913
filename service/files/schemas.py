"""Files as OpenAI's clients read them."""

from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field

from service.database.tables import FileRow

UploadPurpose = Literal["fine-tune", "batch", "assistants", "vision", "user_data", "evals"]
UPLOAD_PURPOSES: tuple[str, ...] = get_args(UploadPurpose)
PURPOSES = (*UPLOAD_PURPOSES, "fine-tune-results", "batch_output")


class ExpiresAfter(BaseModel):
    """How long a file is kept. Without it, batch files are kept for 30 days and all others until they are deleted."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"] = Field(description="When the time begins to run: always with the file's creation.")
    seconds: int = Field(ge=3600, le=2_592_000, strict=True, description="Between an hour and 30 days.")


class File(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "file",
                    "id": "file-3bs0p4nJaVgKqpwiteP20A",
                    "bytes": 1182446,
                    "created_at": 1795263543,
                    "filename": "train.jsonl",
                    "purpose": "fine-tune",
                    "status": "processed",
                }
            ]
        }
    )

    object: Literal["file"] = "file"
    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    expires_at: int | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="When it is deleted by itself; left out when it is kept until somebody deletes it.",
    )

    @classmethod
    def from_row(cls, row: FileRow) -> Self:
        return cls(
            id=row.id,
            bytes=row.bytes,
            created_at=int(row.created_at),
            filename=row.filename,
            purpose=row.purpose,
            expires_at=None if row.expires_at is None else int(row.expires_at),
        )


class FilePage(BaseModel):
    object: Literal["list"] = "list"
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(BaseModel):
    object: Literal["file"] = "file"
    id: str
    deleted: Literal[True] = True
