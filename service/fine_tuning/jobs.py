"""The rules of jobs: what may be created, and what a caller may do with one."""

import re
import secrets
import time
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from service.auth import Caller
from service.database.tables import JobRow
from service.errors import InvalidRequest, NotFound
from service.files.files import get_input_file
from service.fine_tuning import repository
from service.fine_tuning.integrations import refuse_without_wandb, with_run_ids
from service.fine_tuning.planning import JobPlan
from service.fine_tuning.repository import NewEvent
from service.fine_tuning.schemas import MAX_SEED, CreateJob
from service.fine_tuning.status import JobStatus, checked_transition
from service.ids import JOB_ID_PATTERN, fine_tuned_model_name, new_job_id
from service.settings import Settings
from service.webhooks.deliveries import record_event


async def create_job(session: AsyncSession, settings: Settings, caller: Caller, plan: JobPlan) -> JobRow:
    row = await new_job(session, settings, caller, plan)
    await repository.add_job(session, row)
    events = [
        NewEvent(key="created", message=f"Created fine-tuning job: {row.id}"),
        NewEvent(key="validating", message=f"Validating training file: {row.training_file}"),
    ]
    if row.validation_file:
        message = f"Validating validation file: {row.validation_file}"
        events.append(NewEvent(key="validating-validation", message=message))
    repository.add_events(session, row.id, events)
    return row


async def new_job(session: AsyncSession, settings: Settings, caller: Caller, plan: JobPlan) -> JobRow:
    """A row that is not in the database yet. Refuses what can be known now. A bad *content* of a file fails the job
    later, with the rows named."""
    asked, base, training = plan.asked, plan.base, plan.training
    resources = _resources(asked, settings)
    if asked.integrations:
        refuse_without_wandb(settings)
    if asked.suffix is not None and not (asked.suffix.isprintable() and name_part(asked.suffix)):
        raise InvalidRequest(
            f"{asked.suffix!r} must be printable and have a letter or digit - 'suffix'", param="suffix"
        )
    for param, file_id in (("training_file", asked.training_file), ("validation_file", asked.validation_file)):
        if file_id is not None:
            await get_input_file(session, caller.project_id, file_id, purpose="fine-tune", param=param)
    job_id = new_job_id()
    suffix = name_part(asked.suffix) if asked.suffix else None
    return JobRow(
        id=job_id,
        project_id=caller.project_id,
        created_at=time.time(),
        status=JobStatus.VALIDATING_FILES,
        model=asked.model,
        base_model=base.name,
        parent_adapter_sha256=plan.parent_adapter_sha256,
        model_name=fine_tuned_model_name(base.name, caller.organization, suffix, job_id),
        training_file=asked.training_file,
        validation_file=asked.validation_file,
        suffix=asked.suffix,
        seed=secrets.randbelow(MAX_SEED + 1) if asked.seed is None else asked.seed,
        job_metadata=asked.metadata or None,
        method_type=training.method,
        hyperparameters=training.hyperparameters,
        integrations=with_run_ids(asked.integrations or [], job_id),
        resources=resources,
        x_training=training.extension.to_column(),
        result_files=[],
        due_at=time.time(),
    )


async def get_job(session: AsyncSession, project_id: str, job_id: str) -> JobRow:
    row = await repository.get_job(session, project_id, job_id) if JOB_ID_PATTERN.fullmatch(job_id) else None
    if row is None:
        raise _no_such_job(job_id)
    return row


async def lock_job(session: AsyncSession, project_id: str, job_id: str) -> JobRow:
    """As `get_job`, and nobody else changes the row until this transaction ends."""
    row = await repository.lock_job(session, project_id, job_id) if JOB_ID_PATTERN.fullmatch(job_id) else None
    if row is None:
        raise _no_such_job(job_id)
    return row


async def cancel_job(session: AsyncSession, project_id: str, job_id: str) -> JobRow:
    """The job is cancelled at once; the dispatcher then stops what still runs of it."""
    row = await lock_job(session, project_id, job_id)
    status = JobStatus(row.status)
    if status.is_final:
        raise InvalidRequest(f"Job {job_id} is already {status} and cannot be cancelled.", code="job_not_cancellable")
    row.status = checked_transition(status, JobStatus.CANCELLED)
    row.finished_at = row.due_at = time.time()
    row.estimated_finish = None
    row.is_paused = False
    repository.add_events(session, job_id, [NewEvent(key="cancelled", message="Fine-tuning job cancelled")])
    await record_event(session, project_id, "fine_tuning.job.cancelled", job_id)
    return row


def _resources(asked: CreateJob, settings: Settings) -> dict[str, Any] | None:
    """Only what was named. Raises InvalidRequest where there is nothing to choose."""
    if asked.x_training is None or asked.x_training.resources is None:
        return None
    if settings.executor == "local":
        raise InvalidRequest(
            "This server trains on one machine, with what that has: resources can be chosen on a cluster only. Leave "
            "'x_training.resources' out.",
            param="x_training.resources",
        )
    return asked.x_training.resources.model_dump(exclude_unset=True) or None


def name_part(suffix: str) -> str:
    """A suffix as it stands in a model's name: the user's own words, without what would break the name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", suffix).strip("-")


def _no_such_job(job_id: str) -> NotFound:
    return NotFound(f"Could not find fine tune: {job_id}", param="fine_tuning_job_id", code="fine_tuning_job_not_found")
