"""The rules of batches: what may be created, and what a caller may do with one."""

import time
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from service.batches import repository
from service.batches.schemas import CreateBatch
from service.batches.status import BatchStatus, checked_transition
from service.database.tables import BatchRow
from service.errors import Conflict, InvalidRequest, NotFound
from service.files.files import get_input_file
from service.ids import BATCH_ID_PATTERN, new_batch_id
from service.inference.vllm_command import has_vllm
from service.settings import MEGABYTE, Settings

COMPLETION_WINDOW = timedelta(hours=24)
MAX_INPUT_BYTES = 200 * MEGABYTE


async def create_batch(session: AsyncSession, settings: Settings, project_id: str, asked: CreateBatch) -> BatchRow:
    """Refuses what can be known now. A bad *content* of the file fails the batch later, with its lines named."""
    if settings.serving == "off":
        raise InvalidRequest(
            "This server tunes models and does not serve them, so it cannot answer a batch: it runs with "
            "FETTLE_SERVING=off.",
            code="serving_unavailable",
        )
    if settings.serving == "vllm" and not has_vllm():
        raise InvalidRequest(
            "This server has no vLLM, so it cannot answer a batch: models are tuned but not served.",
            code="serving_unavailable",
        )
    file = await get_input_file(session, project_id, asked.input_file_id, purpose="batch", param="input_file_id")
    if file.bytes > MAX_INPUT_BYTES:
        raise InvalidRequest(
            f"invalid input_file_id: File {file.id} has {file.bytes:,} bytes; the input of a batch may have at most "
            f"{MAX_INPUT_BYTES:,}. Split it into several batches.",
            param="input_file_id",
        )
    now = time.time()
    expires_after = asked.output_expires_after
    row = BatchRow(
        id=new_batch_id(),
        project_id=project_id,
        created_at=now,
        expires_at=now + COMPLETION_WINDOW.total_seconds(),
        status=BatchStatus.VALIDATING,
        endpoint=asked.endpoint,
        input_file_id=asked.input_file_id,
        output_expires_after=None if expires_after is None else expires_after.seconds,
        batch_metadata=asked.metadata or None,
        due_at=now,
    )
    session.add(row)
    await session.flush()  # the counts get their zeros
    return row


async def get_batch(session: AsyncSession, project_id: str, batch_id: str) -> BatchRow:
    row = await repository.get_batch(session, project_id, batch_id) if BATCH_ID_PATTERN.fullmatch(batch_id) else None
    if row is None:
        raise _no_such_batch(batch_id)
    return row


async def cancel_batch(session: AsyncSession, project_id: str, batch_id: str) -> BatchRow:
    """Whoever works on it then stops, and keeps what was answered. Cancelling it once more changes nothing."""
    row = await repository.lock_batch(session, project_id, batch_id) if BATCH_ID_PATTERN.fullmatch(batch_id) else None
    if row is None:
        raise _no_such_batch(batch_id)
    status = BatchStatus(row.status)
    if status in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
        return row
    if not status.can_be_cancelled:
        raise Conflict(f"Cannot cancel a batch with status '{status}'.", code="batch_not_cancellable")
    row.status = checked_transition(status, BatchStatus.CANCELLING)
    row.cancelling_at = row.due_at = time.time()
    return row


def _no_such_batch(batch_id: str) -> NotFound:
    return NotFound(f"No batch found with id '{batch_id}'.", param="batch_id")
