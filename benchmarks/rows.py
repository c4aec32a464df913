"""Rows by the hundred thousand, written straight into the tables."""

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import sqlalchemy as sa

from service.database.tables import EventRow, FileRow, JobMetadataRow, JobRow, Table
from service.ids import new_event_id, new_file_id, new_job_id
from service.projects.repository import DEFAULT_PROJECT_ID

ROWS_AT_ONCE = 5_000

# so many pairs `number` that the filter finds a page of 20 in 100,000 jobs and in a hundred
METADATA_VALUES = 5


class Counts(NamedTuple):
    jobs: int
    events: int
    files: int


def fill(engine: sa.Engine, counts: Counts) -> tuple[str, str]:
    """Answers the id of a job in the middle, that has events, and of a file."""
    job_ids = [new_job_id() for _ in range(counts.jobs)]
    file_ids = [new_file_id() for _ in range(counts.files)]
    now = time.time()
    with engine.begin() as connection:
        _insert(connection, FileRow, (_file(file_id, number, now) for number, file_id in enumerate(file_ids)))
        _insert(connection, JobRow, (_job(job_id, file_ids[0], now) for job_id in job_ids))
        seqs = connection.scalars(sa.select(JobRow.seq).order_by(JobRow.seq)).all()
        pairs = ({"job_seq": seq, "key": "number", "value": str(seq % METADATA_VALUES)} for seq in seqs)
        _insert(connection, JobMetadataRow, pairs)
        events = (_event(job_ids[number % counts.jobs], number, now) for number in range(counts.events))
        _insert(connection, EventRow, events)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    engine.dispose()
    return job_ids[counts.jobs // 2], file_ids[0]


def _insert(connection: sa.Connection, table: type[Table], rows: Iterator[dict[str, Any]]) -> None:
    while portion := list(islice(rows, ROWS_AT_ONCE)):
        connection.execute(sa.insert(table), portion)


def _file(file_id: str, number: int, now: float) -> dict[str, Any]:
    return {
        "id": file_id,
        "project_id": DEFAULT_PROJECT_ID,
        "created_at": now,
        "filename": "rows.jsonl",
        "purpose": "batch" if number % 2 else "fine-tune",
        "bytes": 1000,
        "sha256": "0" * 64,
    }


def _job(job_id: str, file_id: str, now: float) -> dict[str, Any]:
    return {
        "id": job_id,
        "project_id": DEFAULT_PROJECT_ID,
        "created_at": now,
        "status": "succeeded",
        "model": "fettle-tiny",
        "base_model": "fettle-tiny",
        "model_name": f"ft:fettle-tiny:fettle::{job_id[-8:]}",
        "training_file": file_id,
        "seed": 1,
        "job_metadata": {"number": "1"},
        "method_type": "supervised",
        "hyperparameters": {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0},
        "integrations": [],
        "result_files": [],
        "attempt": 1,
        "next_event_part": 1,
        "is_paused": False,
        "crashes": 0,
    }


def _event(job_id: str, number: int, now: float) -> dict[str, Any]:
    return {
        "id": new_event_id(),
        "job_id": job_id,
        "key": str(number),
        "created_at": now,
        "level": "info",
        "message": f"Step {number}: training loss=0.73",
        "type": "metrics",
        "data": {"step": number, "total_steps": 200, "train_loss": 0.73},
    }
