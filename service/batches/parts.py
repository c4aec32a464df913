"""What the steps of a batch work with, and the names that they make from it: the same ones every time."""

import asyncio
from dataclasses import dataclass

from service.database.engine import Sessions
from service.database.tables import BatchRow
from service.inference.engines import Engines
from service.inference.routing import FindServedModel
from service.object_storage.base import ObjectStorage
from service.operations.telemetry import Telemetry
from service.settings import Settings


@dataclass(frozen=True)
class BatchParts:
    """Made once, in `app.py`."""

    settings: Settings
    sessions: Sessions
    storage: ObjectStorage
    servers: Engines | None
    """None: nothing is served here, and only what needs no answer is done."""
    find_model: FindServedModel
    telemetry: Telemetry
    room: asyncio.Semaphore
    """As many requests as all batches of this service may have under way."""


def batch_prefix(batch: BatchRow) -> str:
    """Everything under it goes when the batch has ended."""
    return f"batches/{batch.id}/"


def input_key(batch: BatchRow) -> str:
    """The batch's own copy: what was checked is what is answered, whatever becomes of the uploaded file."""
    return f"{batch_prefix(batch)}input.jsonl"
