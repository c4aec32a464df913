"""What a job's trainers printed, as the dispatcher and the trainers themselves keep it in object storage."""

import re
from collections.abc import AsyncIterator

from service.database.tables import JobRow
from service.dispatcher.parts import logs_prefix
from service.errors import NotFound
from service.fine_tuning.progress_schemas import JobLog
from service.object_storage.base import ObjectNotFound, ObjectStorage

_NAME = re.compile(r"([0-9]{4,9})-([A-Za-z0-9][A-Za-z0-9._-]{0,150})\.log")
"""`tuning.contract.log_name`'s."""

MAX_SHOWN_CHARACTERS = 100


async def list_logs(storage: ObjectStorage, job: JobRow) -> list[JobLog]:
    """Oldest attempt first."""
    prefix = f"{logs_prefix(job)}/"
    logs = []
    async for found in storage.list(prefix):
        name = found.key.removeprefix(prefix)
        if (parts := _NAME.fullmatch(name)) is not None:
            logs.append(JobLog(name=name, attempt=int(parts[1]), container=parts[2], bytes=found.bytes))
    return logs


async def read_log(storage: ObjectStorage, job: JobRow, name: str) -> AsyncIterator[bytes]:
    """Its first chunk is there when this returns. Raises NotFound."""
    if not _NAME.fullmatch(name):
        raise _no_such_log(job, name)
    chunks = storage.get(f"{logs_prefix(job)}/{name}")
    try:
        first = await anext(chunks, b"")
    except ObjectNotFound as error:
        raise _no_such_log(job, name) from error
    return _chained(first, chunks)


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


def _no_such_log(job: JobRow, name: str) -> NotFound:
    shown = name if len(name) <= MAX_SHOWN_CHARACTERS else f"{name[:MAX_SHOWN_CHARACTERS]}…"
    return NotFound(f"Job {job.id} has no log '{shown}'", param="log_name", code="log_not_found")
