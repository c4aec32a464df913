"""The rule of reading a job's receipt."""

from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import NotFound
from service.fine_tuning import jobs
from service.fine_tuning.receipt_schemas import JobReceipt
from service.fine_tuning.status import JobStatus


async def get_receipt(session: AsyncSession, project_id: str, job_id: str) -> JobReceipt:
    """Raises NotFound, also while there is none yet."""
    job = await jobs.get_job(session, project_id, job_id)
    if job.training_receipt is not None:
        return JobReceipt.from_columns(job.id, job.training_receipt, job.validation_receipt)
    if job.status == JobStatus.VALIDATING_FILES:
        reason = "its files are still being validated. Ask again when the job's status is no longer validating_files"
    else:
        reason = f"it was {job.status} before its files were found to be good. The job's error and events tell more"
    raise NotFound(f"Job {job_id} has no receipt: {reason}.", param="fine_tuning_job_id", code="receipt_not_found")
