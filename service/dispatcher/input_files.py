"""Whether the files that a job names are still there."""

from service.database.tables import JobRow
from service.dispatcher.parts import Parts
from service.files.repository import get_file
from tuning.contract import ErrorCode, JobError


async def deleted_file(job: JobRow, parts: Parts) -> JobError | None:
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
