"""Starts the execution that admission has named."""

import time

from service.database.tables import JobRow
from service.dispatcher.change import AT_ONCE, WHEN_TOLD, Change
from service.dispatcher.input_files import deleted_file
from service.dispatcher.job_spec import job_spec
from service.dispatcher.parts import Parts, run_prefix
from service.executors.base import ExecutionState, Launch
from service.models.adapters import read_manifest
from service.object_storage.base import ObjectNotFound
from tuning.adapter_manifest import AdapterManifest
from tuning.contract import SPEC_NAME, ErrorCode, JobError


async def start(job: JobRow, parts: Parts) -> Change:
    """The job stays queued until its execution has a place to run. Raises CatalogueError."""
    assert job.execution is not None
    if (deleted := await deleted_file(job, parts)) is not None:
        return Change.failed(deleted)
    try:
        parent = await read_parent(job, parts)
    except (ObjectNotFound, ValueError) as error:
        return Change.failed(parent_unavailable(job, error))
    resources = parts.resources_of(job)
    spec = job_spec(job, parts, parent, resources)
    spec_key = f"{run_prefix(job)}/{SPEC_NAME}"
    await parts.storage.put_bytes(spec_key, spec.model_dump_json(indent=1).encode())
    await parts.executor.start(
        Launch(
            name=job.execution,
            spec_uri=parts.storage.uri(spec_key),
            job_id=job.id,
            project_id=job.project_id,
            base_model=job.base_model,
            attempt=job.attempt,
            resources=resources,
        )
    )
    execution = await parts.executor.observe(job.execution)
    is_waiting = execution.state is ExecutionState.PENDING
    return Change(columns={"launched_at": time.time()}, due_in=WHEN_TOLD if is_waiting else AT_ONCE)


async def read_parent(job: JobRow, parts: Parts) -> AdapterManifest | None:
    """Of the adapter that training goes on from. Raises ObjectNotFound, and ValueError when it is damaged."""
    if job.parent_adapter_sha256 is None:
        return None
    return await read_manifest(parts.storage, job.parent_adapter_sha256)


def parent_unavailable(job: JobRow, error: Exception) -> JobError:
    message = (
        f"The adapter of model {job.model} can no longer be read: {error}. Name a base model or another tuned one."
    )
    return JobError(code=ErrorCode.MODEL_UNAVAILABLE, message=message, param="model")
