"""The step of a job whose files are being validated: receipts, warnings, and what is trained with."""

from service.database.tables import JobRow
from service.dispatcher.change import Change
from service.dispatcher.input_files import deleted_file
from service.dispatcher.parts import Parts
from service.dispatcher.starting import parent_unavailable, read_parent
from service.files.files import storage_key
from service.fine_tuning.planning import find_refusal
from service.fine_tuning.repository import NewEvent
from service.fine_tuning.resolution import AskedTraining, max_length, resolve
from service.fine_tuning.status import JobStatus
from service.fine_tuning.validation import FileToCheck, ValidationFailed, validate_files
from service.object_storage.base import ObjectNotFound
from tuning.contract import ErrorCode, JobError
from tuning.data.receipt import DataReceipt

_LEFT_TO_THE_RECEIPT = {"samples", "tools", "item_keys", "findings", "overlap"}
"""Of the event's data, so that lists of events stay small. Each finding has an event of its own."""


async def validate(job: JobRow, parts: Parts) -> Change:
    entry = parts.base_of(job)
    if (deleted := await deleted_file(job, parts)) is not None:
        return Change.failed(deleted)
    try:
        parent = await read_parent(job, parts)
    except (ObjectNotFound, ValueError) as error:
        return Change.failed(parent_unavailable(job, error))
    asked = AskedTraining.from_row(job)
    if (reason := await find_refusal(asked, entry, parent, may_fetch=True)) is not None:
        message, param = reason.message, reason.param
        return Change.failed(JobError(code=ErrorCode.ADAPTER_NOT_SERVABLE, message=message, param=param))
    try:
        training, validation = await validate_files(
            entry,
            FileToCheck(parts.storage.uri(storage_key(job.training_file)), "training_file"),
            FileToCheck(parts.storage.uri(storage_key(job.validation_file)), "validation_file")
            if job.validation_file
            else None,
            parts.settings,
            method=asked.method,
            max_length=max_length(asked, entry),
        )
    except ValidationFailed as failure:
        # The file may have been deleted while it was read: then that is the reason to tell.
        return Change.failed(await deleted_file(job, parts) or failure.error)
    resolved = resolve(asked, entry, parent, rows=training.trained_rows, has_validation=validation is not None)
    events = _receipt_events("Training", training)
    if validation is not None:
        events += _receipt_events("Validation", validation)
    events.append(NewEvent(key="validated", message="Files validated, moving job to queued state"))
    return Change(
        status=JobStatus.QUEUED,
        columns={
            "hyperparameters": resolved.hyperparameters,
            "x_resolved": {name: value.model_dump() for name, value in resolved.values.items()},
            "training_receipt": training.model_dump(mode="json"),
            "validation_receipt": validation.model_dump(mode="json") if validation else None,
        },
        events=events,
        due_in=None,
    )


def _receipt_events(which: str, receipt: DataReceipt) -> list[NewEvent]:
    """A summary, and a warning for each finding."""
    summary = NewEvent(
        key=f"receipt-{which.lower()}",
        level="warn" if receipt.findings else "info",
        message=f"{which} file receipt: {receipt.summary()}",
        data=receipt.model_dump(mode="json", exclude=_LEFT_TO_THE_RECEIPT),
    )
    findings = [
        NewEvent(
            key=f"finding-{which.lower()}-{number}",
            level="warn",
            message=finding.message,
            data=finding.model_dump(mode="json"),
        )
        for number, finding in enumerate(receipt.findings, 1)
    ]
    return [summary, *findings]
