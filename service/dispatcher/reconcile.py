"""One step for one job. Each step looks at the world, acts, and returns the change; every act is safe to repeat.

No session is open while a step talks to object storage, an executor or vLLM. A process that dies after acting and
before the change is applied leaves a row from which the next dispatcher takes the same step again: it finds the same
execution, the same result and writes the same names.
"""

import logging
import time

from service.database.tables import JobRow
from service.dispatcher.change import AT_ONCE, WHEN_TOLD, Change
from service.dispatcher.ending import end_without_result, publish
from service.dispatcher.job_logs import store_logs
from service.dispatcher.parts import Parts, run_prefix
from service.dispatcher.progress import event_changes, read_events, result_in
from service.dispatcher.starting import start
from service.dispatcher.stopping import ask_to_stop, drop_all_states, drop_old_state
from service.dispatcher.validating import validate
from service.executors.base import Execution, ExecutionState
from service.fine_tuning.repository import NewEvent
from service.fine_tuning.status import JobStatus
from service.object_storage.base import ObjectNotFound
from tuning.catalogue import CatalogueError
from tuning.contract import RESULT_NAME, ErrorCode, JobError, JobResult, event_part_name

log = logging.getLogger(__name__)


async def take_step(job: JobRow, parts: Parts) -> Change:
    try:
        return await _take_step(job, parts)
    except CatalogueError as error:  # the base model was taken out of the catalogue, or its files cannot be read
        return Change.failed(JobError(code=ErrorCode.MODEL_UNAVAILABLE, message=str(error), param="model"))


async def _take_step(job: JobRow, parts: Parts) -> Change:
    match JobStatus(job.status):
        case JobStatus.VALIDATING_FILES:
            return await validate(job, parts)
        case JobStatus.QUEUED if job.execution is None:
            return Change(due_in=None)  # `admission.py` says when it goes on
        case JobStatus.QUEUED if job.launched_at is None:
            return await start(job, parts)
        case JobStatus.QUEUED | JobStatus.RUNNING:
            return await _follow(job, parts)
        case JobStatus.SUCCEEDED | JobStatus.FAILED | JobStatus.CANCELLED:
            return await _clean_up(job, parts)


# --- queued and running -------------------------------------------------------------------------------------------


async def _follow(job: JobRow, parts: Parts) -> Change:
    """Of a job whose execution was started: what it told, what became of it, and what that means."""
    assert job.execution is not None
    execution = await parts.executor.observe(job.execution)  # first: what it wrote before it ended is then all there
    told = Change(events=_events_of(job, execution))
    if job.status == JobStatus.QUEUED:
        if execution.state is ExecutionState.PENDING:
            return await _go_on(job, execution, told, parts)
        if execution.state is not ExecutionState.GONE or await _has_run(job, parts):
            return told.then(_begun(job))
    parts_read, has_more = await read_events(parts.storage, f"{run_prefix(job)}/", job.next_event_part)
    change = told.then(event_changes(job, parts_read))
    change.columns["next_event_part"] = job.next_event_part + len(parts_read)
    change.due_in = AT_ONCE if has_more else parts.settings.poll_interval
    result = result_in(parts_read)
    if result is None and has_more:
        return change
    if result is None:
        result = await _stored_result(job, parts)
    if result is None:
        return await _go_on(job, execution, change, parts)
    if result.error is not None:
        log.warning("job %s failed: %s", job.id, result.error.message)
        return change.then(Change.failed(result.error))
    return change.then(await publish(job, result, parts))


async def _has_run(job: JobRow, parts: Parts) -> bool:
    """Also when nobody saw it run."""
    names = (event_part_name(1), RESULT_NAME)
    return any([await parts.storage.head(f"{run_prefix(job)}/{name}") is not None for name in names])


def _events_of(job: JobRow, execution: Execution) -> list[NewEvent]:
    return [
        NewEvent(key=f"place-{job.attempt}-{note.key}", level=note.level, message=note.message)
        for note in execution.notes
    ]


def _begun(job: JobRow) -> Change:
    again = "" if job.attempt == 1 else f" again (attempt {job.attempt})"
    return Change(
        status=JobStatus.RUNNING,
        columns={"started_at": job.started_at or time.time()},
        events=[NewEvent(key=f"started-{job.attempt}", message=f"Fine-tuning job started{again}")],
    )


async def _stored_result(job: JobRow, parts: Parts) -> JobResult | None:
    try:
        return JobResult.model_validate_json(await parts.storage.get_bytes(f"{run_prefix(job)}/{RESULT_NAME}"))
    except ObjectNotFound:
        return None


async def _go_on(job: JobRow, execution: Execution, change: Change, parts: Parts) -> Change:
    """There is no result, and all events are read."""
    newest_state = change.columns.get("resume_from")
    await drop_old_state(job, newest_state, parts)
    if execution.error is not None:
        log.warning("job %s, attempt %d: %s", job.id, job.attempt, execution.error.message)
        return change.then(Change.failed(execution.error))
    if execution.state in (ExecutionState.RUNNING, ExecutionState.PENDING):
        if job.is_paused or job.stopping_since is not None:
            return change.then(await ask_to_stop(job, parts))
        if execution.state is ExecutionState.PENDING:
            change.due_in = WHEN_TOLD
        return change
    has_state = (newest_state or job.resume_from) is not None
    change = change.then(await end_without_result(job, execution, parts, has_state=has_state))
    return change.then(await _end_execution(job, parts))


async def _end_execution(job: JobRow, parts: Parts) -> Change:
    """Keeps what it printed, and takes it away."""
    assert job.execution is not None
    await store_logs(job, parts)
    await parts.executor.stop(job.execution)
    return Change(columns={"execution": None})


# --- final states -------------------------------------------------------------------------------------------------


async def _clean_up(job: JobRow, parts: Parts) -> Change:
    change = Change() if job.execution is None else await _end_execution(job, parts)
    await drop_all_states(job, parts)
    change.due_in = None
    return change
