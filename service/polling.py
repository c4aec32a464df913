"""Background work: a step that is taken again and again, at once when somebody says that there is work."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from datetime import timedelta
from typing import Any

log = logging.getLogger(__name__)


class Polling:
    """Takes `step` every `interval`, and whenever `wake` was called since the last one began."""

    def __init__(self, name: str, step: Callable[[], Awaitable[None]], interval: timedelta) -> None:
        self._name = name
        self._step = step
        self._interval = interval
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """There is work: do not wait for the next poll."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled, also in the middle of a step: a step must be safe to repeat."""
        task = asyncio.current_task()
        assert task is not None
        while True:
            self._wake.clear()
            try:
                await self._step()
            except Exception:  # the database or the storage may be away for a while; background work outlives that
                log.exception("a step of %s failed", self._name)
            if task.cancelling():  # some library under the step kept the cancellation to itself
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval.total_seconds()):
                    await self._wake.wait()


async def cancel_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Returns when all have ended, however they did."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
