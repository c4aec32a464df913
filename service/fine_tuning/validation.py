"""Checks a job's files in a process of their own: rows by the hundred thousand must not hold up the event loop.

The process is told what to read on standard input and answers with one JSON document on standard output. It dies with
nobody harmed: a step that is repeated starts another one.
"""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from typing import Literal

from service.settings import Settings
from tuning.catalogue import CatalogueEntry
from tuning.contract import JobError
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
    entry: CatalogueEntry, training: FileToCheck, validation: FileToCheck | None, settings: Settings
) -> tuple[DataReceipt, DataReceipt | None]:
    """The receipts of both files. Raises ValidationFailed; RuntimeError when the process died."""
    question = {
        "entry": entry.model_dump(mode="json"),
        "files": [asdict(file) for file in (training, validation) if file is not None],
        "s3_endpoint_url": settings.s3_endpoint_url,
        "s3_region": settings.s3_region,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service.fine_tuning.validation_worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await process.communicate(json.dumps(question).encode())
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"the process that validates files ended with {process.returncode}")
    answer = json.loads(output)
    if answer["error"] is not None:
        raise ValidationFailed(JobError.model_validate(answer["error"]))
    receipts = [DataReceipt.model_validate(receipt) for receipt in answer["receipts"]]
    return receipts[0], receipts[1] if validation is not None else None
