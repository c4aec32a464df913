"""One step for one job. Each step looks at the world, acts, and returns the change; every act is safe to repeat.

No session is open while a step talks to object storage, an executor or vLLM. A process that dies after acting and
before the change is applied leaves a row from which the next dispatcher takes the same step again: it finds the same
execution, the same result and writes the same names.
"""

import logging
import time

from sqlalchemy.ext.asyncio import AsyncSession

from service.database.tables import JobRow
from service.dispatcher.change import Change
from service.dispatcher.ending import end_without_result, publish
from service.dispatcher.job_spec import job_spec
from service.dispatcher.parts import ADAPTERS_PREFIX, Parts, run_prefix
from service.dispatcher.progress import event_changes, read_events
from service.dispatcher.stopping import ask_to_stop, drop_all_states, drop_old_state
from service.executors.base import ExecutionState
from service.files.files import storage_key
from service.files.repository import get_file
from service.fine_tuning.hyperparameters import Hyperparameters, resolve
from service.fine_tuning.repository import NewEvent, count_running, has_older_queued
from service.fine_tuning.status import JobStatus
from service.fine_tuning.validation import FileToCheck, ValidationFailed, validate_files
from service.object_storage.base import ObjectNotFound
from tuning.adapter_manifest import MANIFEST_NAME, AdapterManifest
from tuning.catalogue import CatalogueError
from tuning.contract import RESULT_NAME, SPEC_NAME, ErrorCode, JobError, JobResult
from tuning.data.receipt import DataReceipt

log = logging.getLogger(__name__)


async def take_step(job: JobRow, parts: Parts) -> Change:
    try:
        return await _take_step(job, parts)
    except CatalogueError as error:  # the base model was taken out of the catalogue, or its files cannot be read
        return Change.failed(JobError(code=ErrorCode.MODEL_UNAVAILABLE, message=str(error), param="model"))


async def _take_step(job: JobRow, parts: Parts) -> Change:
    match JobStatus(job.status):
        case JobStatus.VALIDATING_FILES:
            return await _validate(job, parts)
        case JobStatus.QUEUED if job.execution is None and job.is_paused:
            return Change(due_in=None)  # held until somebody resumes it
        case JobStatus.QUEUED if job.execution is None:
            return await _admit(job, parts)
        case JobStatus.QUEUED:
            return await _start(job, parts)
        case JobStatus.RUNNING:
            return await _follow(job, parts)
        case JobStatus.SUCCEEDED | JobStatus.FAILED | JobStatus.CANCELLED:
            return await _clean_up(job, parts)


# --- validating_files ---------------------------------------------------------------------------------------------


async def _validate(job: JobRow, parts: Parts) -> Change:
    entry = parts.base_of(job)
    if (deleted := await _deleted_file(job, parts)) is not None:
        return Change.failed(deleted)
    try:
        training, validation = await validate_files(
            entry,
            FileToCheck(parts.storage.uri(storage_key(job.training_file)), "training_file"),
            FileToCheck(parts.storage.uri(storage_key(job.validation_file)), "validation_file")
            if job.validation_file
            else None,
            parts.settings,
        )
    except ValidationFailed as failure:
        # The file may have been deleted while it was read: then that is the reason to tell.
        return Change.failed(await _deleted_file(job, parts) or failure.error)
    resolved = resolve(Hyperparameters.model_validate(job.hyperparameters), entry, training.trained_rows)
    events = _receipt_events("Training", training)
    if validation is not None:
        events += _receipt_events("Validation", validation)
    events.append(NewEvent(key="validated", message="Files validated, moving job to queued state"))
    return Change(
        status=JobStatus.QUEUED,
        columns={
            "hyperparameters": resolved.model_dump(),
            "training_receipt": training.model_dump(mode="json"),
            "validation_receipt": validation.model_dump(mode="json") if validation else None,
        },
        events=events,
    )


def _receipt_events(which: str, receipt: DataReceipt) -> list[NewEvent]:
    message = f"{which} file receipt: {receipt.summary()}"
    has_findings = bool(receipt.total_cut_rows or receipt.total_dropped_rows)
    return [
        NewEvent(
            key=f"receipt-{which.lower()}",
            level="warn" if has_findings else "info",
            message=message,
            data=receipt.model_dump(mode="json"),
        )
    ]


# --- queued -------------------------------------------------------------------------------------------------------


async def _admit(job: JobRow, parts: Parts) -> Change:
    """Names the next execution when there is room. Only then is it started: a crash between finds it by its name."""
    async with parts.sessions() as session:
        if not await _has_room(session, job, parts):
            return Change(due_in=parts.settings.poll_interval)
    attempt = job.attempt + 1
    return Change(
        columns={
            "attempt": attempt,
            "execution": f"{job.id}-{attempt}",
            "next_event_part": 1,
            "stopping_since": None,
        },
    )


async def _has_room(session: AsyncSession, job: JobRow, parts: Parts) -> bool:
    """First come, first served."""
    if await count_running(session) >= parts.settings.max_running_jobs:
        return False
    return not await has_older_queued(session, job)


async def _start(job: JobRow, parts: Parts) -> Change:
    assert job.execution is not None
    if (deleted := await _deleted_file(job, parts)) is not None:
        return Change.failed(deleted)
    try:
        parent = await _parent(job, parts)
    except (ObjectNotFound, ValueError) as error:
        return Change.failed(_parent_unavailable(job, error))
    spec = job_spec(job, parts, parent)
    spec_key = f"{run_prefix(job)}/{SPEC_NAME}"
    await parts.storage.put_bytes(spec_key, spec.model_dump_json(indent=1).encode())
    await parts.executor.start(job.execution, parts.storage.uri(spec_key))
    return Change(
        status=JobStatus.RUNNING,
        columns={"started_at": job.started_at or time.time()},
        events=[NewEvent(key=f"started-{job.attempt}", message=_start_message(job))],
        due_in=parts.settings.poll_interval,
    )


async def _parent(job: JobRow, parts: Parts) -> AdapterManifest | None:
    """Of the adapter that training goes on from. Raises ObjectNotFound, and ValueError when it is damaged."""
    sha256 = job.parent_adapter_sha256
    if sha256 is None:
        return None
    content = await parts.storage.get_bytes(f"{ADAPTERS_PREFIX}/{sha256}/{MANIFEST_NAME}")
    return AdapterManifest.from_json(content, sha256)


def _parent_unavailable(job: JobRow, error: Exception) -> JobError:
    message = (
        f"The adapter of model {job.model} can no longer be read: {error}. Name a base model or another tuned one."
    )
    return JobError(code=ErrorCode.MODEL_UNAVAILABLE, message=message, param="model")


def _start_message(job: JobRow) -> str:
    return "Fine-tuning job started" if job.attempt == 1 else f"Fine-tuning job started again (attempt {job.attempt})"


# --- running ------------------------------------------------------------------------------------------------------


async def _follow(job: JobRow, parts: Parts) -> Change:
    assert job.execution is not None
    execution = await parts.executor.observe(job.execution)  # first: what it wrote before it ended is then all there
    parts_read, has_more = await read_events(parts.storage, f"{run_prefix(job)}/", job.next_event_part)
    change = event_changes(job, parts_read)
    change.columns["next_event_part"] = job.next_event_part + len(parts_read)
    if has_more:
        return change
    try:
        content = await parts.storage.get_bytes(f"{run_prefix(job)}/{RESULT_NAME}")
    except ObjectNotFound:
        newest_state = change.columns.get("resume_from")
        await drop_old_state(job, newest_state, parts)
        if execution.state is ExecutionState.RUNNING:
            if job.is_paused:
                return change.then(await ask_to_stop(job, parts))
            change.due_in = parts.settings.poll_interval
            return change
        has_state = (newest_state or job.resume_from) is not None
        return change.then(await end_without_result(job, execution, parts, has_state=has_state))
    result = JobResult.model_validate_json(content)
    if result.error is not None:
        log.warning("job %s failed: %s\n%s", job.id, result.error.message, await parts.executor.log_tail(job.execution))
        ended = Change.failed(result.error)
    else:
        ended = await publish(job, result, parts)
    await parts.executor.stop(job.execution)  # it is about to exit by itself
    return change.then(ended)


# --- final states -------------------------------------------------------------------------------------------------


async def _clean_up(job: JobRow, parts: Parts) -> Change:
    if job.execution is not None:
        await parts.executor.stop(job.execution)
    await drop_all_states(job, parts)
    return Change(columns={"execution": None}, due_in=None)


# --- shared -------------------------------------------------------------------------------------------------------


async def _deleted_file(job: JobRow, parts: Parts) -> JobError | None:
    async with parts.sessions() as session:
        if await get_file(session, job.project_id, job.training_file) is None:
            return JobError(
                code=ErrorCode.DELETED_TRAINING_FILE,
                message=f"Training file {job.training_file} was deleted before the job could read it. Upload it again.",
                param="training_file",
            )
        if job.validation_file and await get_file(session, job.project_id, job.validation_file) is None:
            return JobError(
                code=ErrorCode.DELETED_VALIDATION_FILE,
                message=f"Validation file {job.validation_file} was deleted before the job could read it. "
                "Upload it again.",
                param="validation_file",
            )
    return None
