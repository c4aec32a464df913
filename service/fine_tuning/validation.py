"""Checks a job's files in a process of their own: rows by the hundred thousand must not hold up the event loop."""

from dataclasses import asdict, dataclass
from typing import Literal

from service.fine_tuning.overlap import ValidationReceipt
from service.settings import Settings
from service.worker_process import ask_worker
from tuning.catalogue import CatalogueEntry
from tuning.contract import JobError, MethodName
from tuning.data.receipt import DataReceipt


@dataclass(frozen=True)
class FileToCheck:
    uri: str
    param: Literal["training_file", "validation_file"]


class ValidationFailed(Exception):
    """The job cannot run with these files; `error` tells its owner why."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


async def validate_files(
    entry: CatalogueEntry,
    training: FileToCheck,
    validation: FileToCheck | None,
    settings: Settings,
    *,
    method: MethodName,
    max_length: int,
) -> tuple[DataReceipt, ValidationReceipt | None]:
    """The receipts of both files. Raises ValidationFailed and WorkerDied."""
    question = {
        "entry": entry.model_dump(mode="json"),
        "method": method,
        "max_length": max_length,
        "files": [asdict(file) for file in (training, validation) if file is not None],
        "s3": settings.s3_access,
    }
    answer = await ask_worker("service.fine_tuning.validation_worker", question)
    if answer["error"] is not None:
        raise ValidationFailed(JobError.model_validate(answer["error"]))
    of_training, *of_validation = answer["receipts"]
    return (
        DataReceipt.model_validate(of_training),
        ValidationReceipt.model_validate(of_validation[0]) if of_validation else None,
    )
