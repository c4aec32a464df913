"""One call at a time to a part that may hang: whoever asks meanwhile waits for the same call, and not for long."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Generic, TypeVar

T = TypeVar("T")

GIVE_UP = timedelta(seconds=15)
"""A call that takes longer is cancelled, so that the next one makes a new connection."""


class SharedCall(Generic[T]):
    """Its result is kept for a moment, so that asking often costs nothing."""

    def __init__(self, call: Callable[[], Awaitable[T]], kept: timedelta, patience: timedelta) -> None:
        self._call = call
        self._kept = kept
        self._patience = patience
        self._running: asyncio.Task[T] | None = None
        self._ended_at = 0.0

    async def result(self) -> T:
        """Raises what the call raised, and TimeoutError when there is no answer yet."""
        if self._running is None or (self._running.done() and self._is_old()):
            self._running = asyncio.create_task(self._run())
            self._running.add_done_callback(_look_at_error)
        running = self._running
        await asyncio.wait((running,), timeout=self._patience.total_seconds())  # it is not cancelled: others wait too
        if not running.done():
            raise TimeoutError
        return running.result()

    def cancel(self) -> None:
        if self._running is not None:
            self._running.cancel()

    def _is_old(self) -> bool:
        return time.monotonic() - self._ended_at >= self._kept.total_seconds()

    async def _run(self) -> T:
        try:
            async with asyncio.timeout(GIVE_UP.total_seconds()):
                return await self._call()
        finally:
            self._ended_at = time.monotonic()


def _look_at_error(task: asyncio.Task[T]) -> None:
    """Nobody may ask again; asyncio would then report it as forgotten."""
    if not task.cancelled():
        task.exception()
