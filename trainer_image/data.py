"""A training file as token ids and labels on the local disk.

Rendering is `tuning.data`, the very code that made the service's receipt; its digest is checked here before anything
is trained on. Rows lie in a memory-mapped Arrow file, so that memory does not grow with the training file.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from datasets import Dataset

from trainer_image import artifacts
from trainer_image.collation import IGNORED_LABEL
from trainer_image.errors import TrainingFailed
from tuning.contract import DataSpec, ErrorCode
from tuning.data.receipt import DataError, DataReceipt, make_receipt
from tuning.data.rendering import ChatRenderer, RenderedRow

ROWS_PER_WRITE = 1000
SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())})

FileParam = Literal["training_file", "validation_file"]
ERRORS: dict[FileParam, tuple[ErrorCode, ErrorCode]] = {
    "training_file": (ErrorCode.DELETED_TRAINING_FILE, ErrorCode.INVALID_TRAINING_FILE),
    "validation_file": (ErrorCode.DELETED_VALIDATION_FILE, ErrorCode.INVALID_VALIDATION_FILE),
}


def load_rows(spec: DataSpec, renderer: ChatRenderer, path: Path, param: FileParam) -> tuple[Dataset, DataReceipt]:
    """Writes the rendered rows to `path` and opens them; raises TrainingFailed unless they are the receipt's."""
    deleted, invalid = ERRORS[param]
    try:
        receipt = _render_to(path, spec, renderer, "Training file" if param == "training_file" else "Validation file")
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


def _render_to(path: Path, spec: DataSpec, renderer: ChatRenderer, file: str) -> DataReceipt:
    ids: list[np.ndarray] = []
    labels: list[np.ndarray] = []

    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as stream:

        def write() -> None:
            stream.write_batch(pa.record_batch([ids, labels], schema=SCHEMA))
            ids.clear()
            labels.clear()

        def add(row: RenderedRow) -> None:
            [sequence] = row.sequences
            ids.append(np.frombuffer(sequence.input_ids, dtype=np.int32))
            is_supervised = np.frombuffer(sequence.is_supervised, dtype=bool)
            labels.append(np.where(is_supervised, ids[-1], np.int32(IGNORED_LABEL)))
            if len(ids) == ROWS_PER_WRITE:
                write()

        # How many rows a file must have is the service's to say; the digest is what counts here.
        receipt = make_receipt(artifacts.read_chunks(spec.uri), renderer, add, file=file, min_rows=1)
        write()
    return receipt
