"""Files as OpenAI's clients read them."""

from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict

from service.database.tables import FileRow

UploadPurpose = Literal["fine-tune", "batch", "assistants", "vision", "user_data", "evals"]
UPLOAD_PURPOSES: tuple[str, ...] = get_args(UploadPurpose)
PURPOSES = (*UPLOAD_PURPOSES, "fine-tune-results")


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

    @classmethod
    def from_row(cls, row: FileRow) -> Self:
        return cls(
            id=row.id,
            bytes=row.bytes,
            created_at=int(row.created_at),
            filename=row.filename,
            purpose=row.purpose,
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
