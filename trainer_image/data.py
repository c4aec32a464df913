"""A training file as token ids and labels on the local disk.

Rendering is `tuning.data`, the very code that made the service's receipt; its digest is checked here before anything
is trained on. Rows lie in a memory-mapped Arrow file, so that memory does not grow with the training file.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from datasets import Dataset

from trainer_image import artifacts
from trainer_image.collation import IGNORED_LABEL
from trainer_image.errors import TrainingFailed
from tuning.contract import DataSpec, ErrorCode, MethodName
from tuning.data.receipt import DataError, DataReceipt, make_receipt
from tuning.data.rendering import ChatRenderer, RenderedRow, RenderedSequence

ROWS_PER_WRITE = 1000
BYTES_PER_WRITE = 64 * 1024 * 1024
_TOKENS = pa.list_(pa.int32())
_PREFERENCE_SCHEMA = pa.schema(
    {
        "chosen_input_ids": _TOKENS,
        "chosen_labels": _TOKENS,
        "rejected_input_ids": _TOKENS,
        "rejected_labels": _TOKENS,
    }
)
SCHEMAS: dict[MethodName, pa.Schema] = {
    "supervised": pa.schema({"input_ids": _TOKENS, "labels": _TOKENS}),
    "dpo": _PREFERENCE_SCHEMA,
    "orpo": _PREFERENCE_SCHEMA,
    "kto": pa.schema({"input_ids": _TOKENS, "labels": _TOKENS, "is_desirable": pa.bool_()}),
    # `input_ids` is the prompt; `item` the row as JSON, for the grader. Its offsets have 64 bits: rows may be long.
    "reinforcement": pa.schema({"input_ids": _TOKENS, "item": pa.large_string()}),
}
"""Labels are the ids, or IGNORED_LABEL where a token is only read; they are not shifted."""

FileParam = Literal["training_file", "validation_file"]
ERRORS: dict[FileParam, tuple[ErrorCode, ErrorCode]] = {
    "training_file": (ErrorCode.DELETED_TRAINING_FILE, ErrorCode.INVALID_TRAINING_FILE),
    "validation_file": (ErrorCode.DELETED_VALIDATION_FILE, ErrorCode.INVALID_VALIDATION_FILE),
}


def load_rows(
    spec: DataSpec, renderer: ChatRenderer, path: Path, param: FileParam, method: MethodName = "supervised"
) -> tuple[Dataset, DataReceipt]:
    """Writes the rendered rows to `path` and opens them; raises TrainingFailed unless they are the receipt's."""
    deleted, invalid = ERRORS[param]
    try:
        file = "Training file" if param == "training_file" else "Validation file"
        receipt = _render_to(path, spec, renderer, file, method)
    except FileNotFoundError as error:
        raise TrainingFailed(
            deleted, f"The {param} was deleted before the job started; upload it again.", param
        ) from error
    except DataError as error:
        raise TrainingFailed(invalid, str(error), param) from error
    if receipt.sha256 != spec.receipt_sha256:
        raise TrainingFailed(
            ErrorCode.DATA_CHANGED,
            f"The {param} renders to other tokens than were checked before the start (digest {receipt.sha256[:12]}, "
            f"checked {spec.receipt_sha256[:12]}): the file, the base model's tokenizer or its chat template has "
            "changed since. Create the job again.",
            param,
        )
    return Dataset.from_file(str(path)).with_format("numpy"), receipt


def _render_to(path: Path, spec: DataSpec, renderer: ChatRenderer, file: str, method: MethodName) -> DataReceipt:
    schema = SCHEMAS[method]
    columns: list[list[Any]] = [[] for _ in schema]
    waiting_bytes = 0

    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:

        def write() -> None:
            nonlocal waiting_bytes
            stream.write_batch(pa.record_batch(columns, schema=schema))
            waiting_bytes = 0
            for column in columns:
                column.clear()

        def add(row: RenderedRow) -> None:
            nonlocal waiting_bytes
            for column, value in zip(columns, _read_values(row, method), strict=True):
                column.append(value)
            waiting_bytes += 8 * row.tokens + len(row.note)  # ids and labels have four each
            if len(columns[0]) == ROWS_PER_WRITE or waiting_bytes > BYTES_PER_WRITE:
                write()

        # How many rows a file must have is the service's to say; the digest is what counts here.
        receipt = make_receipt(artifacts.read_chunks(spec.uri), renderer, add, file=file, min_rows=1, method=method)
        write()
    return receipt


def _read_values(row: RenderedRow, method: MethodName) -> list[Any]:
    """In the order of the method's columns."""
    if method == "reinforcement":
        return [_read_ids(row.sequences[0]), row.note.decode()]
    values: list[Any] = []
    for sequence in row.sequences:
        ids = _read_ids(sequence)
        is_supervised = np.frombuffer(sequence.is_supervised, dtype=bool)
        values += [ids, np.where(is_supervised, ids, np.int32(IGNORED_LABEL))]
    if method == "kto":
        values.append(row.note == b"\1")
    return values


def _read_ids(sequence: RenderedSequence) -> np.ndarray:
    return np.frombuffer(sequence.input_ids, dtype=np.int32)
