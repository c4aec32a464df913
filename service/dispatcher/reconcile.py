"""One step for one job. Each step looks at the world, acts, and returns the change; every act is safe to repeat.

No session is open while a step talks to object storage, an executor or vLLM. A process that dies after acting and
before the change is applied leaves a row from which the next dispatcher takes the same step again: it finds the same
execution, the same result and writes the same names.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from service.database.engine import Sessions
from service.database.tables import FileRow, JobRow, ModelRow
from service.dispatcher.change import Change
from service.dispatcher.progress import event_changes, read_events
from service.errors import ApiError
from service.executors.base import Execution, ExecutionState, Executor
from service.files.files import storage_key
from service.files.repository import get_file
from service.fine_tuning.hyperparameters import (
    Hyperparameters,
    ResolvedHyperparameters,
    resolve,
    to_lora_spec,
    to_supervised_spec,
)
from service.fine_tuning.jobs import name_part
from service.fine_tuning.repository import NewEvent, count_running, has_older_queued
from service.fine_tuning.status import JobStatus
from service.fine_tuning.validation import FileToCheck, ValidationFailed, validate_files
from service.ids import fine_tuned_model_name, result_file_id
from service.inference.routing import AdapterRefused, ServedModel
from service.object_storage.base import ObjectNotFound, ObjectStorage
from service.settings import Settings
from tuning.catalogue import Catalogue, CatalogueEntry, CatalogueError
from tuning.contract import (
    METRICS_CSV_NAME,
    RESULT_NAME,
    SPEC_NAME,
    BaseModelSpec,
    DataSpec,
    ErrorCode,
    ExitCode,
    JobError,
    JobResult,
    JobSpec,
)
from tuning.data.receipt import DataReceipt

log = logging.getLogger(__name__)

FIRST_RETRY_DELAY = timedelta(seconds=1)  # doubled with every attempt


@dataclass(frozen=True)
class Parts:
    """What a step works with; made once in `app.py`."""

    settings: Settings
    catalogue: Catalogue
    sessions: Sessions
    storage: ObjectStorage
    executor: Executor
    warm: Callable[[ServedModel], Awaitable[None]] | None
    """Loads a tuned model where it is served; None: nothing is served here."""


async def take_step(job: JobRow, parts: Parts) -> Change:
    match JobStatus(job.status):
        case JobStatus.VALIDATING_FILES:
            return await _validate(job, parts)
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
    entry = _entry(job, parts)
    if (deleted := await _deleted_file(job, parts)) is not None:
        return _failed(deleted)
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
        return _failed(await _deleted_file(job, parts) or failure.error)
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
        columns={"attempt": attempt, "execution": f"{job.id}-{attempt}", "next_event_part": 1},
    )


async def _has_room(session: AsyncSession, job: JobRow, parts: Parts) -> bool:
    """First come, first served."""
    if await count_running(session) >= parts.settings.max_running_jobs:
        return False
    return not await has_older_queued(session, job)


async def _start(job: JobRow, parts: Parts) -> Change:
    assert job.execution is not None
    if (deleted := await _deleted_file(job, parts)) is not None:
        return _failed(deleted)
    try:
        spec = _job_spec(job, _entry(job, parts), parts.storage)
    except CatalogueError as error:
        return _failed(JobError(code=ErrorCode.MODEL_UNAVAILABLE, message=str(error), param="model"))
    spec_key = f"{_run_prefix(job)}/{SPEC_NAME}"
    await parts.storage.put_bytes(spec_key, spec.model_dump_json(indent=1).encode())
    await parts.executor.start(job.execution, parts.storage.uri(spec_key))
    return Change(
        status=JobStatus.RUNNING,
        columns={"started_at": job.started_at or time.time()},
        events=[NewEvent(key=f"started-{job.attempt}", message="Fine-tuning job started")],
        due_in=parts.settings.poll_interval,
    )


def _job_spec(job: JobRow, entry: CatalogueEntry, storage: ObjectStorage) -> JobSpec:
    resolved = ResolvedHyperparameters.model_validate(job.hyperparameters)
    return JobSpec(
        job_id=job.id,
        attempt=job.attempt,
        base_model=BaseModelSpec(
            name=entry.name,
            source=entry.source,
            revision=entry.revision,
            dtype=entry.dtype,
            template_path=entry.chat_template,
            template_sha256=entry.template_sha256,
            stop_tokens=entry.stop_tokens,
        ),
        training_data=_data_spec(job.training_file, job.training_receipt, storage),
        validation_data=_data_spec(job.validation_file, job.validation_receipt, storage)
        if job.validation_file
        else None,
        method=to_supervised_spec(resolved, entry),
        lora=to_lora_spec(entry),
        seed=job.seed,
        output_uri=storage.uri(_run_prefix(job)),
        adapters_uri=storage.uri("adapters"),
    )


def _data_spec(file_id: str, receipt: dict[str, object] | None, storage: ObjectStorage) -> DataSpec:
    checked = DataReceipt.model_validate(receipt)
    return DataSpec(uri=storage.uri(storage_key(file_id)), receipt_sha256=checked.sha256, rows=checked.trained_rows)


# --- running ------------------------------------------------------------------------------------------------------


async def _follow(job: JobRow, parts: Parts) -> Change:
    assert job.execution is not None
    execution = await parts.executor.observe(job.execution)  # first: what it wrote before it ended is then all there
    parts_read, has_more = await read_events(parts.storage, f"{_run_prefix(job)}/", job.next_event_part)
    change = event_changes(job, parts_read, model_name(job, parts.settings))
    change.columns["next_event_part"] = job.next_event_part + len(parts_read)
    if has_more:
        return change
    try:
        content = await parts.storage.get_bytes(f"{_run_prefix(job)}/{RESULT_NAME}")
    except ObjectNotFound:
        if execution.state is ExecutionState.RUNNING:
            change.due_in = parts.settings.poll_interval
            return change
        return _merge(change, await _ended_without_result(job, execution, parts))
    result = JobResult.model_validate_json(content)
    if result.error is not None:
        log.warning("job %s failed: %s\n%s", job.id, result.error.message, await parts.executor.log_tail(job.execution))
        ended = _failed(result.error)
    else:
        ended = await _publish(job, result, parts)
    await parts.executor.stop(job.execution)  # it is about to exit by itself
    return _merge(change, ended)


async def _publish(job: JobRow, result: JobResult, parts: Parts) -> Change:
    """Puts the result file in its place and loads the model where it is served: `succeeded` means it answers."""
    assert result.adapter_sha256 is not None
    name = model_name(job, parts.settings)
    model = ModelRow(
        name=name,
        job_id=job.id,
        created_at=time.time(),
        base_model=job.model,
        adapter_sha256=result.adapter_sha256,
    )
    events = []
    if parts.warm is not None:
        try:
            await parts.warm(ServedModel(name, _entry(job, parts), result.adapter_sha256))
        except AdapterRefused as error:
            return _failed(JobError(code=ErrorCode.ADAPTER_NOT_SERVABLE, message=str(error)))
        except ApiError as error:  # the adapter is good as far as anybody knows: what was trained is not thrown away
            message = f"The model could not be tried in vLLM yet: {error.message}"
            events.append(NewEvent(key="not-tried", level="warn", message=message))
    result_file = await _store_result_file(job, parts)
    events += [
        NewEvent(key="model-created", message=f"New fine-tuned model created: {name}"),
        NewEvent(key="completed", message="The job has successfully completed"),
    ]
    return Change(
        status=JobStatus.SUCCEEDED,
        columns={
            "fine_tuned_model": name,
            "trained_tokens": result.trained_tokens,
            "result_files": [result_file.id],
            "finished_at": time.time(),
            "estimated_finish": None,
            "execution": None,
        },
        events=events,
        models=[model],
        files=[result_file],
        due_in=None,
    )


async def _store_result_file(job: JobRow, parts: Parts) -> FileRow:
    file_id = result_file_id(job.id)
    csv = parts.storage.get(f"{_run_prefix(job)}/{METRICS_CSV_NAME}")
    stored = await parts.storage.put(storage_key(file_id), csv)
    return FileRow(
        id=file_id,
        created_at=time.time(),
        filename=METRICS_CSV_NAME,
        purpose="fine-tune-results",
        bytes=stored.bytes,
        sha256=stored.sha256,
    )


async def _ended_without_result(job: JobRow, execution: Execution, parts: Parts) -> Change:
    assert job.execution is not None
    reason = _how_it_ended(execution)
    log_tail = await parts.executor.log_tail(job.execution)
    log.warning("job %s, attempt %d: the trainer %s\n%s", job.id, job.attempt, reason, log_tail)
    is_preempted = execution.exit_code == ExitCode.PREEMPTED
    if not is_preempted and job.attempt >= parts.settings.max_attempts:
        message = (
            f"The training process {reason}, {job.attempt} times in a row. If memory is short, a smaller batch_size "
            "or shorter rows help; the server's log holds what the process printed."
        )
        return _failed(JobError(code=ErrorCode.TRAINER_CRASHED, message=message))
    event = NewEvent(
        key=f"ended-{job.attempt}",
        level="warn",
        message=f"The training process {reason}. Starting again from the first step (attempt {job.attempt + 1}).",
    )
    return Change(
        status=JobStatus.QUEUED,
        columns={"execution": None, "estimated_finish": None},
        events=[event],
        due_in=FIRST_RETRY_DELAY * 2 ** min(job.attempt - 1, 8),
    )


def _how_it_ended(execution: Execution) -> str:
    code = execution.exit_code
    if code == ExitCode.PREEMPTED:
        return "was stopped before its last step"
    if code is None:
        return "disappeared"
    if code > 128:  # the shell's way to tell a signal
        out_of_memory = ", as the system does when memory runs out" if code == 137 else ""
        return f"was killed by signal {code - 128}{out_of_memory}"
    return f"ended with exit code {code} and no result"


# --- final states -------------------------------------------------------------------------------------------------


async def _clean_up(job: JobRow, parts: Parts) -> Change:
    if job.execution is not None:
        await parts.executor.stop(job.execution)
    return Change(columns={"execution": None}, due_in=None)


def _failed(error: JobError) -> Change:
    """The execution, where there is one, is stopped by the next step."""
    return Change(
        status=JobStatus.FAILED,
        columns={"error": error.model_dump(mode="json"), "finished_at": time.time(), "estimated_finish": None},
        events=[NewEvent(key="failed", level="error", message=error.message)],
    )


# --- shared -------------------------------------------------------------------------------------------------------


def model_name(job: JobRow, settings: Settings) -> str:
    suffix = name_part(job.suffix) if job.suffix else None
    return fine_tuned_model_name(job.model, settings.organization, suffix, job.id)


def _run_prefix(job: JobRow) -> str:
    return f"jobs/{job.id}/attempts/{job.attempt}"


def _entry(job: JobRow, parts: Parts) -> CatalogueEntry:
    entry = parts.catalogue.get(job.model)
    if entry is None:
        raise LookupError(f"job {job.id} was created for {job.model}, which is no longer in the catalogue")
    return entry


async def _deleted_file(job: JobRow, parts: Parts) -> JobError | None:
    async with parts.sessions() as session:
        if await get_file(session, job.training_file) is None:
            return JobError(
                code=ErrorCode.DELETED_TRAINING_FILE,
                message=f"Training file {job.training_file} was deleted before the job could read it. Upload it again.",
                param="training_file",
            )
        if job.validation_file and await get_file(session, job.validation_file) is None:
            return JobError(
                code=ErrorCode.DELETED_VALIDATION_FILE,
                message=f"Validation file {job.validation_file} was deleted before the job could read it. "
                "Upload it again.",
                param="validation_file",
            )
    return None


def _merge(first: Change, then: Change) -> Change:
    return Change(
        status=then.status,
        columns=first.columns | then.columns,
        events=first.events + then.events,
        checkpoints=first.checkpoints + then.checkpoints,
        models=first.models + then.models,
        files=first.files + then.files,
        due_in=then.due_in,
    )
