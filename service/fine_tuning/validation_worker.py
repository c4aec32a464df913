"""`python -m service.fine_tuning.validation_worker`: the process that `validation.py` starts and talks to."""

import json
import sys
from typing import Any

from service.fine_tuning.overlap import compare_receipts
from service.object_storage import open_chunks
from service.object_storage.base import ObjectNotFound, S3Access
from service.worker_process import end_with_caller
from tuning.catalogue import CatalogueEntry, CatalogueError
from tuning.contract import ErrorCode, JobError, MethodName
from tuning.data.findings import Finding
from tuning.data.receipt import MIN_ROWS, DataError, DataReceipt, TooFewRowsError, check_rows
from tuning.data.rendering import ChatRenderer, RenderingError
from tuning.data.row_digests import RowDigests

# A training file needs OpenAI's ten examples; a validation file is only measured on.
_FILES: dict[str, tuple[str, int, ErrorCode, ErrorCode]] = {
    "training_file": (
        "Training file",
        MIN_ROWS,
        ErrorCode.INVALID_TRAINING_FILE,
        ErrorCode.DELETED_TRAINING_FILE,
    ),
    "validation_file": (
        "Validation file",
        1,
        ErrorCode.INVALID_VALIDATION_FILE,
        ErrorCode.DELETED_VALIDATION_FILE,
    ),
}


class _Refused(Exception):
    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


def main() -> None:
    end_with_caller()
    question = json.load(sys.stdin)
    try:
        receipts = check_files(question)
        answer: dict[str, Any] = {"receipts": [receipt.model_dump(mode="json") for receipt in receipts], "error": None}
    except _Refused as refusal:
        answer = {"receipts": [], "error": refusal.error.model_dump(mode="json")}
    json.dump(answer, sys.stdout)


def check_files(question: dict[str, Any]) -> list[DataReceipt]:
    """The training file's receipt and, where there is a validation file, its one too."""
    try:
        renderer = ChatRenderer.from_entry(CatalogueEntry.model_validate(question["entry"]), question["max_length"])
        training, *others = question["files"]
        receipt, rows = _check_file(renderer, training, question["method"], question["s3"])
        if not others:
            return [receipt]
        [validation] = others
        if validation["uri"] == training["uri"]:
            told_once = receipt.model_copy(update={"findings": ()})
            return [receipt, compare_receipts(receipt, rows, told_once, rows)]
        other_receipt, other_rows = _check_file(renderer, validation, question["method"], question["s3"])
        return [receipt, compare_receipts(receipt, rows, other_receipt, other_rows)]
    except (CatalogueError, RenderingError) as error:
        raise _Refused(JobError(code=ErrorCode.MODEL_UNAVAILABLE, message=str(error), param="model")) from error


def _check_file(
    renderer: ChatRenderer, file: dict[str, str], method: MethodName, s3: S3Access
) -> tuple[DataReceipt, RowDigests]:
    param = file["param"]
    name, min_rows, invalid, deleted = _FILES[param]
    try:
        chunks = open_chunks(file["uri"], **s3)
        receipt, rows = check_rows(chunks, renderer, file=name, min_rows=min_rows, method=method)
    except ObjectNotFound as error:
        raise _Refused(JobError(code=deleted, message=f"{name} was deleted.", param=param)) from error
    except TooFewRowsError as error:
        raise _Refused(JobError(code=ErrorCode.INVALID_N_EXAMPLES, message=str(error), param=param)) from error
    except DataError as error:
        raise _Refused(JobError(code=invalid, message=str(error), param=param)) from error
    if param == "training_file" and (finding := _find_one_label(receipt)) is not None:
        raise _Refused(JobError(code=invalid, message=finding.message, param=param))
    return receipt, rows


def _find_one_label(receipt: DataReceipt) -> Finding | None:
    """Nothing can be learned from labels that are all the same; measured on they may be."""
    return next((finding for finding in receipt.findings if finding.code == "one_label"), None)


if __name__ == "__main__":
    main()
