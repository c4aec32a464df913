"""How a run ends: with a model that answers, or without a result and perhaps another attempt."""

import base64
import logging
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Literal

from service.database.tables import FileRow, JobRow, ModelRow
from service.dispatcher.change import Change
from service.dispatcher.comparing import compare
from service.dispatcher.parts import Parts, run_prefix
from service.errors import ApiError
from service.executors.base import Execution
from service.files.files import storage_key
from service.fine_tuning.repository import NewEvent
from service.fine_tuning.status import JobStatus
from service.ids import result_file_id
from service.inference.routing import AdapterRefused, ServedModel
from service.object_storage.streaming import pieces_of
from tuning.contract import METRICS_CSV_NAME, ErrorCode, ExitCode, JobError, JobResult

log = logging.getLogger(__name__)

FIRST_RETRY_DELAY = timedelta(seconds=1)  # doubled with every crash
MAX_RETRY_DOUBLINGS = 8
BASE64_PIECE_BYTES = 3 * 2**16  # whole groups of three, so that the pieces make one text
SHELL_SIGNAL_BASE = 128  # a shell tells that signal N ended its command by this plus N
SIGKILL_EXIT_CODE = SHELL_SIGNAL_BASE + 9


async def publish(job: JobRow, result: JobResult, parts: Parts) -> Change:
    """Loads the model where it is served and puts the result file in its place: `succeeded` means that it answers."""
    assert result.adapter_sha256 is not None
    name = job.model_name
    events = []
    evaluation = None
    if parts.warm is not None:
        try:
            await parts.warm(ServedModel(name, parts.base_of(job), result.adapter_sha256))
            evaluation = await compare(job, result.adapter_sha256, parts)
        except AdapterRefused as error:
            return Change.failed(JobError(code=ErrorCode.ADAPTER_NOT_SERVABLE, message=str(error)))
        except ApiError as error:  # the adapter is good as far as anybody knows: what was trained is not thrown away
            message = f"The model could not be tried in vLLM yet: {error.message}"
            events.append(NewEvent(key="not-tried", level="warn", message=message))
    if evaluation is not None:
        level: Literal["info", "warn"] = "info" if evaluation.status == "completed" else "warn"
        events.append(NewEvent(key="evaluated", level=level, message=evaluation.summary()))
    result_file = await _store_result_file(job, parts)
    events += [
        NewEvent(key="model-created", message=f"New fine-tuned model created: {name}"),
        NewEvent(key="completed", message="The job has successfully completed"),
    ]
    model = ModelRow(
        project_id=job.project_id,
        name=name,
        job_id=job.id,
        created_at=time.time(),
        base_model=job.base_model,
        adapter_sha256=result.adapter_sha256,
    )
    return Change(
        status=JobStatus.SUCCEEDED,
        columns={
            "fine_tuned_model": name,
            "trained_tokens": result.trained_tokens,
            "seconds": result.seconds,
            "evaluation": evaluation and evaluation.to_column(),
            "result_files": [result_file.id],
            "finished_at": time.time(),
            "estimated_finish": None,
            "is_paused": False,
        },
        events=events,
        models=[model],
        files=[result_file],
    )


async def end_without_result(job: JobRow, execution: Execution, parts: Parts, *, has_state: bool) -> Change:
    """A pause, another attempt, or a failure once it crashed often enough. A pre-empted run is always started again.

    `has_state`: there is one that the next attempt goes on from.
    """
    if job.stopping_since is not None:  # however it ended, that is what it was told to do
        return _stopped_as_told(job, has_state)
    return await _start_again(job, execution, parts, has_state)


def _stopped_as_told(job: JobRow, has_state: bool) -> Change:
    if not job.is_paused:  # resumed meanwhile, and an event told that
        return _queued(job, stopping_since=None)
    where = "after the step it was at" if has_state else "before a step could be saved"
    how = "goes on from there" if has_state else "starts with the first step"
    message = f"Fine-tuning job paused {where}. Once resumed, it {how}."
    event = NewEvent(key=f"paused-{job.attempt}", message=message)
    return _queued(job, event, stopping_since=None)


def _queued(job: JobRow, *events: NewEvent, **columns: object) -> Change:
    """It may be so already: its execution was lost before it had a place."""
    return Change(
        status=None if job.status == JobStatus.QUEUED else JobStatus.QUEUED,
        columns={"estimated_finish": None, **columns},
        events=list(events),
    )


async def _start_again(job: JobRow, execution: Execution, parts: Parts, has_state: bool) -> Change:
    assert job.execution is not None
    reason = _how_it_ended(execution)
    log_tail = await parts.executor.log_tail(job.execution)
    log.warning("job %s, attempt %d: the trainer %s\n%s", job.id, job.attempt, reason, log_tail)
    is_preempted = execution.exit_code == ExitCode.PREEMPTED
    crashes = job.crashes if is_preempted else job.crashes + 1
    if crashes >= parts.settings.max_attempts:
        message = (
            f"The training process {reason}; this was failure {crashes} of {parts.settings.max_attempts}. If memory is "
            "short, a smaller batch_size or shorter rows help. What it printed is at "
            f"GET /v1/fine_tuning/jobs/{job.id}/logs."
        )
        return Change.failed(JobError(code=ErrorCode.TRAINER_CRASHED, message=message))
    where = "Going on from its saved state" if has_state else "Starting again from the first step"
    message = f"The training process {reason}. {where} (attempt {job.attempt + 1})."
    delay = FIRST_RETRY_DELAY * 2 ** min(max(crashes - 1, 0), MAX_RETRY_DOUBLINGS)
    event = NewEvent(key=f"ended-{job.attempt}", level="warn", message=message)
    return _queued(job, event, crashes=crashes, not_before=time.time() + delay.total_seconds())


async def _store_result_file(job: JobRow, parts: Parts) -> FileRow:
    file_id = result_file_id(job.id)
    csv = parts.storage.get(f"{run_prefix(job)}/{METRICS_CSV_NAME}")
    content = as_base64(csv) if parts.settings.result_files_base64 else csv
    stored = await parts.storage.put(storage_key(file_id), content)
    return FileRow(
        id=file_id,
        project_id=job.project_id,
        created_at=time.time(),
        filename=METRICS_CSV_NAME,
        purpose="fine-tune-results",
        bytes=stored.bytes,
        sha256=stored.sha256,
    )


async def as_base64(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in pieces_of(BASE64_PIECE_BYTES, chunks):
        yield base64.b64encode(piece)


def _how_it_ended(execution: Execution) -> str:
    code = execution.exit_code
    if code == ExitCode.PREEMPTED:
        return "was stopped before its last step"
    if code is None:
        return "disappeared"
    if code > SHELL_SIGNAL_BASE:
        out_of_memory = ", as the system does when memory runs out" if code == SIGKILL_EXIT_CODE else ""
        return f"was killed by signal {code - SHELL_SIGNAL_BASE}{out_of_memory}"
    return f"ended with exit code {code} and no result"
