"""`python -m service.fine_tuning.validation_worker`: the process that `validation.py` starts and talks to."""

import json
import sys
from typing import Any

from service.object_storage import open_chunks
from service.object_storage.base import ObjectNotFound, S3Access
from tuning.catalogue import CatalogueEntry, CatalogueError
from tuning.contract import ErrorCode, JobError
from tuning.data.receipt import MIN_ROWS, DataError, DataReceipt, TooFewRowsError, make_receipt
from tuning.data.rendering import ChatRenderer, RenderingError

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
    question = json.load(sys.stdin)
    try:
        receipts = check_files(question)
        answer: dict[str, Any] = {"receipts": [receipt.model_dump(mode="json") for receipt in receipts], "error": None}
    except _Refused as refusal:
        answer = {"receipts": [], "error": refusal.error.model_dump(mode="json")}
    json.dump(answer, sys.stdout)


def check_files(question: dict[str, Any]) -> list[DataReceipt]:
    try:
        renderer = ChatRenderer.from_entry(CatalogueEntry.model_validate(question["entry"]))
        return [_check_file(renderer, file["uri"], file["param"], question["s3"]) for file in question["files"]]
    except (CatalogueError, RenderingError) as error:
        raise _Refused(JobError(code=ErrorCode.MODEL_UNAVAILABLE, message=str(error), param="model")) from error


def _check_file(renderer: ChatRenderer, uri: str, param: str, s3: S3Access) -> DataReceipt:
    name, min_rows, invalid, deleted = _FILES[param]
    try:
        chunks = open_chunks(uri, **s3)
        return make_receipt(chunks, renderer, file=name, min_rows=min_rows)
    except ObjectNotFound as error:
        raise _Refused(JobError(code=deleted, message=f"{name} was deleted.", param=param)) from error
    except TooFewRowsError as error:
        raise _Refused(JobError(code=ErrorCode.INVALID_N_EXAMPLES, message=str(error), param=param)) from error
    except DataError as error:
        raise _Refused(JobError(code=invalid, message=str(error), param=param)) from error


if __name__ == "__main__":
    main()
