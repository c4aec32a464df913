"""The requests of one batch: some at once, their results into the log in parts, until all are done or it must stop."""

import asyncio
import time
from contextlib import suppress

from service.batches.input_lines import Line, read_lines
from service.batches.parts import BatchParts, batch_prefix, input_key
from service.batches.repository import record_progress
from service.batches.requests import NotYet, ask, ask_until_answered
from service.batches.results import Progress, Result, ResultLog
from service.database.tables import BatchRow
from service.polling import cancel_all

PART_RESULTS = 64  # held in memory, and asked once more after a crash
MIN_FLUSH_SECONDS, MAX_FLUSH_SECONDS = 1.0, 60.0
FLUSHES_PER_DOUBLING = 200
"""Seldom enough that a day makes some thousand parts, often enough that a crash costs half a percent of the work."""


class BatchRun:
    def __init__(self, batch: BatchRow, parts: BatchParts, stop: asyncio.Event) -> None:
        self._batch = batch
        self._parts = parts
        self._stop = stop
        self._lines = read_lines(parts.storage, input_key(batch))
        self._reading = asyncio.Lock()
        self._log = ResultLog(parts.storage, batch_prefix(batch))
        self._progress = Progress(0)
        self._results: asyncio.Queue[Result] = asyncio.Queue(PART_RESULTS)
        self._attention = asyncio.Event()
        """Set when a part is full, when a worker has ended, and when it is time to stop."""

    async def run(self) -> bool:
        """Whether every request is done. Raises PartTaken when another service owns the batch now."""
        self._progress = await self._log.load(self._batch.total_requests)
        workers = [asyncio.create_task(self._work()) for _ in range(self._parts.settings.batch_concurrency)]
        stopping = asyncio.create_task(self._stop.wait())
        for task in (*workers, stopping):
            task.add_done_callback(lambda _: self._attention.set())
        try:
            while not self._stop.is_set() and not all(worker.done() for worker in workers):
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._attention.wait(), self._seconds_to_flush())
                self._attention.clear()
                await self._flush()
                _raise_from(workers)
        finally:
            await cancel_all((*workers, stopping))
        await self._flush()
        _raise_from(workers)
        return self._progress.left == 0

    async def _work(self) -> None:
        while True:
            async with self._parts.room:
                line = await self._next_line()
                if line is None:
                    return
                result: Result | NotYet
                try:
                    result = await ask(self._batch, self._parts, line)
                except NotYet as error:
                    result = error
            if isinstance(result, NotYet):
                result = await ask_until_answered(self._batch, self._parts, line, result)
            await self._results.put(result)  # waits while a full part is being written
            if self._results.full():
                self._attention.set()

    async def _next_line(self) -> Line | None:
        async with self._reading:
            async for line in self._lines:
                if not self._progress.is_done(line.index):
                    return line
        return None

    async def _flush(self) -> None:
        results = [self._results.get_nowait() for _ in range(self._results.qsize())]
        if not results:
            return
        await self._log.append(self._progress, results)
        await record_progress(self._parts.sessions, self._batch, self._progress.columns)

    def _seconds_to_flush(self) -> float:
        elapsed = time.time() - (self._batch.in_progress_at or time.time())
        return min(max(elapsed / FLUSHES_PER_DOUBLING, MIN_FLUSH_SECONDS), MAX_FLUSH_SECONDS)


def _raise_from(workers: list[asyncio.Task[None]]) -> None:
    for worker in workers:
        if worker.done() and not worker.cancelled():
            worker.result()
