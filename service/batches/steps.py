"""One step for one batch. Each looks at the world, acts, and returns the change; every act is safe to repeat.

As in `dispatcher/reconcile.py`, no session is open meanwhile, and a process that dies before the change is applied
leaves a row from which the next one takes the same step again.
"""

import asyncio
import logging
import time
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from service.batches.ending import write_files
from service.batches.input_check import InputError, InputReport
from service.batches.parts import BatchParts, input_key
from service.batches.results import PartTaken
from service.batches.run import BatchRun
from service.batches.status import BatchStatus
from service.batches.validation import validate_input
from service.database.tables import BatchRow, FileRow
from service.files.files import storage_key
from service.files.repository import get_file
from service.inference.engines import not_served
from service.object_storage.base import ObjectNotFound

log = logging.getLogger(__name__)

AT_ONCE = timedelta()


@dataclass
class BatchChange:
    """What one step wants changed, applied in one transaction."""

    status: BatchStatus | None = None
    """None: it stays."""
    columns: dict[str, Any] = field(default_factory=dict)
    files: list[FileRow] = field(default_factory=list)
    due_in: timedelta = AT_ONCE
    """When to look again, unless the batch has ended."""


async def take_step(batch: BatchRow, parts: BatchParts, stop: asyncio.Event) -> BatchChange:
    """`stop` is set when the batch was cancelled, when its window ended, and when another service took it over."""
    match BatchStatus(batch.status):
        case BatchStatus.VALIDATING:
            return await _validate(batch, parts)
        case BatchStatus.IN_PROGRESS:
            return await _run(batch, parts, stop)
        case BatchStatus.FINALIZING:
            return await _finalize(batch, parts)
        case BatchStatus.CANCELLING:
            return await _cancel(batch, parts)
        case BatchStatus.COMPLETED | BatchStatus.FAILED | BatchStatus.EXPIRED | BatchStatus.CANCELLED:
            raise AssertionError(f"{batch.id} has ended and is due")


async def _validate(batch: BatchRow, parts: BatchParts) -> BatchChange:
    if _is_over(batch):
        return BatchChange(BatchStatus.EXPIRED, {"expired_at": time.time()})
    if not await _copy_input(batch, parts):
        message = f"Cannot find file {batch.input_file_id}, or this project does not have access to it."
        return _failed([InputError("invalid_request", message, "file_id")])
    report = await validate_input(parts.storage.uri(input_key(batch)), batch.endpoint, parts.settings)
    if not report.errors:
        report.errors = await _check_model(batch, parts, report)
    if report.errors:
        return _failed(report.errors)
    return BatchChange(
        BatchStatus.IN_PROGRESS,
        {"model": report.model, "total_requests": report.total, "in_progress_at": time.time()},
    )


async def _copy_input(batch: BatchRow, parts: BatchParts) -> bool:
    """False: the file was deleted, or has expired."""
    async with parts.sessions() as session:
        if await get_file(session, batch.project_id, batch.input_file_id) is None:
            return False
    try:
        await parts.storage.put(input_key(batch), parts.storage.get(storage_key(batch.input_file_id)))
    except ObjectNotFound:
        return False
    return True


async def _check_model(batch: BatchRow, parts: BatchParts, report: InputReport) -> list[InputError]:
    assert report.model is not None
    model = await parts.find_model(batch.project_id, report.model)
    if model is not None:
        if parts.servers is None or parts.servers.serves(model.base):
            return []
        message = not_served(model.base, report.model).message
        return [InputError("model_not_served", message, "body.model", report.model_line)]
    message = f"The provided model '{report.model[:100]}' is not supported by the Batch API, or does not exist."
    return [InputError("model_not_found", message, "body.model", report.model_line)]


def _failed(errors: list[InputError]) -> BatchChange:
    return BatchChange(BatchStatus.FAILED, {"errors": [asdict(error) for error in errors], "failed_at": time.time()})


async def _run(batch: BatchRow, parts: BatchParts, stop: asyncio.Event) -> BatchChange:
    is_whole = False
    if not _is_over(batch):
        try:
            is_whole = await BatchRun(batch, parts, stop).run()
        except PartTaken as error:
            log.warning("the run of %s starts again from what is in storage: %s was there already", batch.id, error)
    if is_whole or _is_over(batch):
        return BatchChange(BatchStatus.FINALIZING, {"finalizing_at": time.time()})
    return BatchChange()  # when it was cancelled, or is another service's now, this changes nothing


async def _finalize(batch: BatchRow, parts: BatchParts) -> BatchChange:
    ending = await write_files(batch, parts, "batch_expired")
    if ending.progress.left:
        return BatchChange(BatchStatus.EXPIRED, {**ending.columns, "expired_at": time.time()}, ending.files)
    return BatchChange(BatchStatus.COMPLETED, {**ending.columns, "completed_at": time.time()}, ending.files)


async def _cancel(batch: BatchRow, parts: BatchParts) -> BatchChange:
    """Cancelled before its input was checked, a batch has no requests, and so no files."""
    ending = await write_files(batch, parts, "batch_cancelled")
    return BatchChange(BatchStatus.CANCELLED, {**ending.columns, "cancelled_at": time.time()}, ending.files)


def _is_over(batch: BatchRow) -> bool:
    return batch.expires_at <= time.time()
