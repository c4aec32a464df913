"""`/v1/batches`."""

from typing import Annotated

from fastapi import APIRouter, Query

from service.auth import Reader, Writer
from service.batches import batches, repository
from service.batches.schemas import Batch, CreateBatch
from service.dependencies import BatchWaker, ConfiguredSettings, Session
from service.pagination import After, PageWithEnds

router = APIRouter(prefix="/batches", tags=["Batches"])


@router.post("")
async def create_batch(
    body: CreateBatch, caller: Writer, session: Session, settings: ConfiguredSettings, wake: BatchWaker
) -> Batch:
    """Answers a file of requests in the background, within 24 hours and beside the requests of the moment.

    Each line of the file is one request: `{"custom_id", "method": "POST", "url", "body"}`, the `url` the batch's
    `endpoint`, the `custom_id` found again in the results; one model for the whole file, at most 50,000 requests and
    200 MB, no streaming. The call answers at once with `validating`; a bad file fails the batch, with its lines named
    in `errors`. The file may be deleted once the batch is `in_progress`.
    """
    row = await batches.create_batch(session, settings, caller.project_id, body)
    wake.after_commit(session)
    return Batch.from_row(row)


@router.get("")
async def list_batches(
    caller: Reader,
    session: Session,
    after: After = None,
    limit: Annotated[int, Query(ge=0, le=100, description="How many objects a page holds.")] = 20,
) -> PageWithEnds[Batch]:
    """Batches, newest first."""
    rows, has_more = await repository.list_batches(session, caller.project_id, after=after, limit=limit)
    return PageWithEnds.of([Batch.from_row(row) for row in rows], has_more)


@router.get("/{batch_id}")
async def retrieve_batch(batch_id: str, caller: Reader, session: Session) -> Batch:
    """One batch as it stands now.

    When it has ended, every request of a valid input file is one line of the output file or of the error file: answers
    with 200 in the one, everything else in the other, among it what was not answered before the window ended
    (`batch_expired`) or before the batch was cancelled (`batch_cancelled`).
    """
    return Batch.from_row(await batches.get_batch(session, caller.project_id, batch_id))


@router.post("/{batch_id}/cancel")
async def cancel_batch(batch_id: str, caller: Writer, session: Session, wake: BatchWaker) -> Batch:
    """Cancels a batch that has not ended. It is `cancelling` for a moment, then `cancelled`; what was answered by then
    is kept in its output and error files."""
    row = await batches.cancel_batch(session, caller.project_id, batch_id)
    wake.after_commit(session)
    return Batch.from_row(row)
