"""The output and error files of a batch: every request is one line of one of them."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from service.batches.input_lines import read_lines
from service.batches.parts import BatchParts, batch_prefix, input_key
from service.batches.requests import unanswered_line
from service.batches.results import Progress, ResultLog
from service.database.tables import BatchRow, FileRow
from service.files.files import BATCH_FILES_KEPT, storage_key
from service.ids import batch_file_id

UnansweredCode = Literal["batch_expired", "batch_cancelled"]

_REASONS: dict[UnansweredCode, str] = {
    "batch_expired": "This request could not be executed before the completion window expired.",
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
}


@dataclass(frozen=True)
class Ending:
    progress: Progress
    output_file: FileRow | None
    error_file: FileRow | None
    """None where the file would be empty."""

    @property
    def files(self) -> list[FileRow]:
        return [file for file in (self.output_file, self.error_file) if file is not None]

    @property
    def columns(self) -> dict[str, object]:
        """Of the batch's row: what has no answer counts as failed, as it is in the error file."""
        return {
            **self.progress.columns,
            "failed_requests": self.progress.total - self.progress.completed,
            "output_file_id": None if self.output_file is None else self.output_file.id,
            "error_file_id": None if self.error_file is None else self.error_file.id,
        }


async def write_files(batch: BatchRow, parts: BatchParts, unanswered: UnansweredCode) -> Ending:
    """Streams them from the log of results. Safe to repeat: the same files are written under the same ids."""
    results = ResultLog(parts.storage, batch_prefix(batch))
    progress = await results.load(batch.total_requests)
    output = error = None
    if progress.completed:
        output = await _store(batch, parts, "output", results.lines(is_ok=True))
    if progress.completed < progress.total:
        error = await _store(batch, parts, "error", _error_lines(batch, parts, results, progress, unanswered))
    return Ending(progress, output, error)


async def _error_lines(
    batch: BatchRow, parts: BatchParts, results: ResultLog, progress: Progress, unanswered: UnansweredCode
) -> AsyncIterator[bytes]:
    async for lines in results.lines(is_ok=False):
        yield lines
    if not progress.left:
        return
    async for line in read_lines(parts.storage, input_key(batch)):
        if not progress.is_done(line.index):
            yield unanswered_line(batch, line, unanswered, _REASONS[unanswered]) + b"\n"


async def _store(
    batch: BatchRow, parts: BatchParts, kind: Literal["output", "error"], lines: AsyncIterator[bytes]
) -> FileRow:
    file_id = batch_file_id(batch.id, kind)
    stored = await parts.storage.put(storage_key(file_id), lines)
    now = time.time()
    return FileRow(
        id=file_id,
        project_id=batch.project_id,
        created_at=now,
        expires_at=now + (batch.output_expires_after or BATCH_FILES_KEPT.total_seconds()),
        filename=f"{batch.id}_{kind}.jsonl",
        purpose="batch_output",
        bytes=stored.bytes,
        sha256=stored.sha256,
    )
