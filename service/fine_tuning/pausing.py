"""The rules of pausing: every job that has not ended can be held and let go again.

    when it is paused       what happens
    validating_files        its files are checked, then it is held
    queued                  it is held, and others go before it
    running                 after the step at hand it leaves a checkpoint and a state to go on from; before its first
                            step there is nothing to leave, and it will start with that
    paused, or ended        refused

Resumed, a job waits for its turn as it did before.
"""

import time

from sqlalchemy.ext.asyncio import AsyncSession

from service.database.tables import JobRow
from service.errors import InvalidRequest
from service.fine_tuning import jobs, repository
from service.fine_tuning.repository import NewEvent
from service.fine_tuning.status import JobStatus


async def pause_job(session: AsyncSession, project_id: str, job_id: str) -> JobRow:
    """The job is paused at once for everybody who looks; the dispatcher then stops what still runs of it."""
    row = await jobs.lock_job(session, project_id, job_id)
    status = JobStatus(row.status)
    if status.is_final:
        raise _not_pausable(f"Job {job_id} is already {status} and cannot be paused.")
    if row.is_paused:
        raise _not_pausable(
            f"Job {job_id} is paused already. Resume it with POST /v1/fine_tuning/jobs/{job_id}/resume, or cancel it."
        )
    row.is_paused = True
    is_running = row.execution is not None
    _tell(session, row, f"Fine-tuning job paused{': it stops after the step at hand' if is_running else ''}")
    return row


async def resume_job(session: AsyncSession, project_id: str, job_id: str) -> JobRow:
    row = await jobs.lock_job(session, project_id, job_id)
    status = JobStatus(row.status)
    if not row.is_paused:
        advice = "" if status.is_final else f" Pause it first with POST /v1/fine_tuning/jobs/{job_id}/pause."
        raise InvalidRequest(
            f"Job {job_id} is {status} and not paused, so that it cannot be resumed.{advice}", code="job_not_resumable"
        )
    row.is_paused = False
    _tell(session, row, "Fine-tuning job resumed")
    return row


def _tell(session: AsyncSession, row: JobRow, message: str) -> None:
    now = row.due_at = time.time()
    # The time makes the key: a job may be paused and resumed many times.
    repository.add_events(session, row.id, [NewEvent(key=f"paused-or-resumed-{now:.6f}", message=message)])


def _not_pausable(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="job_not_pausable")
