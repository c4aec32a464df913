"""Batches as OpenAI's clients send and read them."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from service.database.tables import BatchRow
from service.files.schemas import ExpiresAfter
from service.fine_tuning.schemas import Metadata
from service.pagination import Identified
from service.unix_time import whole_seconds

BatchEndpoint = Literal["/v1/chat/completions", "/v1/completions"]


class CreateBatch(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "input_file_id": "file-3bs0p4nJaVgKqpwiteP20A",
                    "endpoint": "/v1/chat/completions",
                    "completion_window": "24h",
                    "metadata": {"description": "nightly evaluation"},
                }
            ]
        },
    )

    input_file_id: str = Field(description="The id of an uploaded JSONL file with purpose `batch`.")
    endpoint: BatchEndpoint = Field(description="Where every request of the file goes; each line's `url` repeats it.")
    completion_window: Literal["24h"] = Field(description="What has no answer by then ends with `batch_expired`.")
    metadata: Metadata | None = Field(None, max_length=16)
    output_expires_after: ExpiresAfter | None = Field(
        None, description="How long the output and error files are kept, from when they are made. Without it: 30 days."
    )


class BatchError(BaseModel):
    code: str
    message: str
    param: str | None
    line: int | None = Field(description="Of the input file, from 1; null where it is about the whole file.")


class BatchErrors(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(BaseModel):
    total: int
    completed: int = Field(description="Answered with 200: lines of the output file.")
    failed: int = Field(description="Refused, expired or cancelled: lines of the error file.")


class InputTokensDetails(BaseModel):
    cached_tokens: int


class OutputTokensDetails(BaseModel):
    reasoning_tokens: int


class BatchUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


_EXAMPLE: dict[str, JsonValue] = {
    "object": "batch",
    "id": "batch_69c3c347282c81908ede48ecc95bf201",
    "endpoint": "/v1/chat/completions",
    "input_file_id": "file-3bs0p4nJaVgKqpwiteP20A",
    "completion_window": "24h",
    "status": "completed",
    "model": "ft:fettle-tiny:fettle:smart-home:zX81QlWe",
    "output_file_id": "file-0f8c1f6a2d7e4b93a5c1d2",
    "error_file_id": None,
    "errors": None,
    "created_at": 1795263550,
    "in_progress_at": 1795263551,
    "expires_at": 1795349950,
    "finalizing_at": 1795263601,
    "completed_at": 1795263602,
    "failed_at": None,
    "expired_at": None,
    "cancelling_at": None,
    "cancelled_at": None,
    "request_counts": {"total": 120, "completed": 120, "failed": 0},
    "usage": {
        "input_tokens": 4031,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 2210,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 6241,
    },
    "metadata": {"description": "nightly evaluation"},
}


class Batch(Identified):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    object: Literal["batch"] = "batch"
    endpoint: str
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    model: str | None = Field(description="The one model of all requests, once the file is validated.")
    output_file_id: str | None = Field(description="There from the end on, unless no request was answered with 200.")
    error_file_id: str | None = Field(description="There from the end on, unless every request was answered with 200.")
    errors: BatchErrors | None = Field(description="What is wrong with the input file, of a batch that failed.")
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage | None
    metadata: dict[str, str] | None

    @classmethod
    def from_row(cls, row: BatchRow) -> Self:
        errors = None
        if row.errors is not None:
            errors = BatchErrors(data=[BatchError.model_validate(error) for error in row.errors])
        return cls(
            id=row.id,
            endpoint=row.endpoint,
            input_file_id=row.input_file_id,
            status=row.status,
            model=row.model,
            output_file_id=row.output_file_id,
            error_file_id=row.error_file_id,
            errors=errors,
            created_at=int(row.created_at),
            in_progress_at=whole_seconds(row.in_progress_at),
            expires_at=int(row.expires_at),
            finalizing_at=whole_seconds(row.finalizing_at),
            completed_at=whole_seconds(row.completed_at),
            failed_at=whole_seconds(row.failed_at),
            expired_at=whole_seconds(row.expired_at),
            cancelling_at=whole_seconds(row.cancelling_at),
            cancelled_at=whole_seconds(row.cancelled_at),
            request_counts=RequestCounts(
                total=row.total_requests, completed=row.completed_requests, failed=row.failed_requests
            ),
            usage=None if row.in_progress_at is None else _usage(row),
            metadata=row.batch_metadata,
        )


def _usage(row: BatchRow) -> BatchUsage:
    return BatchUsage(
        input_tokens=row.input_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=row.cached_tokens),
        output_tokens=row.output_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=row.reasoning_tokens),
        total_tokens=row.input_tokens + row.output_tokens,
    )
