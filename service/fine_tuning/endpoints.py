"""`/v1/fine_tuning/jobs`."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse

from service.auth import Reader, Writer
from service.dependencies import ConfiguredSettings, LoadedCatalogue, NewSessions, Session, Storage, Waker
from service.fine_tuning import jobs, logs, pausing, receipts, repository
from service.fine_tuning.metadata_filter import MetadataFilter
from service.fine_tuning.planning import JobPlan, Surroundings, plan_job
from service.fine_tuning.progress_schemas import Checkpoint, CheckpointPage, Event, JobLogList
from service.fine_tuning.receipt_schemas import JobReceipt
from service.fine_tuning.schemas import CreateJob, Job
from service.graders.endpoints import GivenGraders
from service.pagination import After, Page

router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"])

_LOG_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The log.", "content": {"text/plain": {"schema": {"type": "string"}}}},
}

Limit = Annotated[int, Query(ge=0, le=1000, description="How many objects a page holds.")]


async def _plan(
    body: CreateJob,
    caller: Writer,
    sessions: NewSessions,
    storage: Storage,
    catalogue: LoadedCatalogue,
    settings: ConfiguredSettings,
    graders: GivenGraders,
) -> JobPlan:
    return await plan_job(body, caller, Surroundings(settings, catalogue, sessions, storage, graders))


Planned = Annotated[JobPlan, Depends(_plan)]
"""Of the body. It stands before `Session`, so that no transaction is open while it is made."""


@router.post("")
async def create_fine_tuning_job(
    plan: Planned, caller: Writer, session: Session, settings: ConfiguredSettings, wake: Waker
) -> Job:
    """Starts a fine-tuning job. It answers at once with `validating_files`; a bad file fails the job, not this call."""
    row = await jobs.create_job(session, settings, caller, plan)
    wake.after_commit(session)
    return Job.from_row(row, caller.organization_id, settings.paused_status)


@router.get("")
async def list_fine_tuning_jobs(
    caller: Reader,
    session: Session,
    settings: ConfiguredSettings,
    metadata: MetadataFilter,
    after: After = None,
    limit: Limit = 20,
) -> Page[Job]:
    """Jobs, newest first.

    `metadata[key]=value` leaves only those with this pair, several of them those with all; `metadata=null` those that
    have no metadata.
    """
    rows, has_more = await repository.list_jobs(session, caller.project_id, metadata=metadata, after=after, limit=limit)
    data = [Job.from_row(row, caller.organization_id, settings.paused_status) for row in rows]
    return Page(data=data, has_more=has_more)


@router.get("/{fine_tuning_job_id}")
async def retrieve_fine_tuning_job(
    fine_tuning_job_id: str, caller: Reader, session: Session, settings: ConfiguredSettings
) -> Job:
    """One job as it stands now."""
    row = await jobs.get_job(session, caller.project_id, fine_tuning_job_id)
    return Job.from_row(row, caller.organization_id, settings.paused_status)


@router.post("/{fine_tuning_job_id}/cancel")
async def cancel_fine_tuning_job(
    fine_tuning_job_id: str, caller: Writer, session: Session, settings: ConfiguredSettings, wake: Waker
) -> Job:
    """Cancels a job that has not ended, paused ones too. Its processes are stopped, by force after a grace period."""
    row = await jobs.cancel_job(session, caller.project_id, fine_tuning_job_id)
    wake.after_commit(session)
    return Job.from_row(row, caller.organization_id, settings.paused_status)


@router.post("/{fine_tuning_job_id}/pause")
async def pause_fine_tuning_job(
    fine_tuning_job_id: str, caller: Writer, session: Session, settings: ConfiguredSettings, wake: Waker
) -> Job:
    """Pauses a job that has not ended: it is held, and other jobs may run, until it is resumed.

    The answer is the job with `"paused": true` and the status `queued` (or `paused`, where the server is set so). A
    running job finishes the step at hand and then leaves a checkpoint, which can be used as a model, and all that it
    needs to go on from there with the same result as if it had not been paused; an event tells when that is done. A
    job that has not trained a step yet is held as it is. Pausing a paused or ended job is refused with 400.
    """
    row = await pausing.pause_job(session, caller.project_id, fine_tuning_job_id)
    wake.after_commit(session)
    return Job.from_row(row, caller.organization_id, settings.paused_status)


@router.post("/{fine_tuning_job_id}/resume")
async def resume_fine_tuning_job(
    fine_tuning_job_id: str, caller: Writer, session: Session, settings: ConfiguredSettings, wake: Waker
) -> Job:
    """Resumes a paused job: it is queued again and goes on after its last step. Refused with 400 unless it is paused.

    Its files must still be there.
    """
    row = await pausing.resume_job(session, caller.project_id, fine_tuning_job_id)
    wake.after_commit(session)
    return Job.from_row(row, caller.organization_id, settings.paused_status)


@router.get("/{fine_tuning_job_id}/events")
async def list_fine_tuning_events(
    fine_tuning_job_id: str, caller: Reader, session: Session, after: After = None, limit: Limit = 20
) -> Page[Event]:
    """What happened to a job, newest first: messages and the metrics of its steps."""
    await jobs.get_job(session, caller.project_id, fine_tuning_job_id)
    rows, has_more = await repository.list_events(session, fine_tuning_job_id, after=after, limit=limit)
    return Page(data=[Event.from_row(row) for row in rows], has_more=has_more)


@router.get("/{fine_tuning_job_id}/checkpoints")
async def list_fine_tuning_job_checkpoints(
    fine_tuning_job_id: str, caller: Reader, session: Session, after: After = None, limit: Limit = 10
) -> CheckpointPage:
    """One checkpoint an epoch, newest first; the newest of a succeeded job is the tuned model itself."""
    await jobs.get_job(session, caller.project_id, fine_tuning_job_id)
    rows, has_more = await repository.list_checkpoints(session, fine_tuning_job_id, after=after, limit=limit)
    data = [Checkpoint.from_row(row) for row in rows]
    return CheckpointPage(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=has_more,
    )


@router.get("/{fine_tuning_job_id}/receipt")
async def retrieve_fine_tuning_job_receipt(fine_tuning_job_id: str, caller: Reader, session: Session) -> JobReceipt:
    """What a job trains on, found while its files were validated, before anything is trained.

    Rows, tokens and what is supervised of them, rows that are cut, left out, repeated or in both files, roles and
    tools, and three rows as the model reads them, with what it learns from. While the files are being validated, and
    when they were refused, the answer is 404.
    """
    return await receipts.get_receipt(session, caller.project_id, fine_tuning_job_id)


@router.get("/{fine_tuning_job_id}/logs")
async def list_fine_tuning_job_logs(
    fine_tuning_job_id: str, caller: Reader, sessions: NewSessions, storage: Storage
) -> JobLogList:
    """What the processes of a job printed, oldest attempt first: one log for each container of each attempt.

    The log of a run that goes on is as new as the trainer's last upload of it, some seconds old. Logs stay when the
    process, its pod and its node are gone.
    """
    async with sessions() as session:
        job = await jobs.get_job(session, caller.project_id, fine_tuning_job_id)
    return JobLogList(data=await logs.list_logs(storage, job))


@router.get("/{fine_tuning_job_id}/logs/{log_name}", responses=_LOG_CONTENT, response_class=Response)
async def download_fine_tuning_job_log(
    fine_tuning_job_id: str, log_name: str, caller: Reader, sessions: NewSessions, storage: Storage
) -> Response:
    """One log as plain text, as it stands now."""
    async with sessions() as session:
        job = await jobs.get_job(session, caller.project_id, fine_tuning_job_id)
    chunks = await logs.read_log(storage, job, log_name)
    headers = {"x-content-type-options": "nosniff"}  # anything may stand in it, a web page too
    return StreamingResponse(chunks, headers=headers, media_type="text/plain; charset=utf-8")
