"""What trainers printed, kept in object storage: readable when the process, the pod and its node are gone."""

import logging
from collections.abc import AsyncIterator

from service.database.tables import JobRow
from service.dispatcher.parts import Parts, logs_prefix
from service.executors.base import ExecutorUnavailable
from service.object_storage.base import StorageError
from tuning.contract import log_name

log = logging.getLogger(__name__)

MAX_LOG_BYTES = 64 * 1024 * 1024
"""Of one container; a trainer that prints more has gone mad."""


async def store_logs(job: JobRow, parts: Parts) -> None:
    """Of all containers of the job's execution, crashed ones too. A job does not wait for its log."""
    assert job.execution is not None
    try:
        async for printed in parts.executor.logs(job.execution):
            key = f"{logs_prefix(job)}/{log_name(job.attempt, printed.container)}"
            await parts.storage.put(key, _limited(printed.chunks))
    except (ExecutorUnavailable, StorageError) as error:
        log.warning("the log of job %s, attempt %d, could not be kept: %s", job.id, job.attempt, error)


async def _limited(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    left = MAX_LOG_BYTES
    async for chunk in chunks:
        yield chunk[:left]
        left -= len(chunk)
        if left <= 0:
            yield b"\n[cut: the log is longer than is kept]\n"
            return
