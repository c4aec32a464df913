"""The executor with a stopwatch: the time and outcome of each call, and a span."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from service.executors.base import Execution, ExecutionLog, Executor, Launch, OnChange
from service.operations.telemetry import Telemetry


class MeasuredExecutor:
    def __init__(self, executor: Executor, telemetry: Telemetry) -> None:
        self._executor = executor
        self._telemetry = telemetry

    async def start(self, launch: Launch) -> None:
        with self._measured("start"):
            await self._executor.start(launch)

    async def observe(self, name: str) -> Execution:
        with self._measured("observe"):
            return await self._executor.observe(name)

    async def interrupt(self, name: str) -> None:
        with self._measured("interrupt"):
            await self._executor.interrupt(name)

    async def stop(self, name: str) -> None:
        with self._measured("stop"):
            await self._executor.stop(name)

    async def log_tail(self, name: str) -> str:
        with self._measured("log_tail"):
            return await self._executor.log_tail(name)

    def logs(self, name: str) -> AsyncIterator[ExecutionLog]:
        """Not measured: it takes as long as who reads it."""
        return self._executor.logs(name)

    async def watch(self, on_change: OnChange) -> None:
        await self._executor.watch(on_change)

    async def check(self) -> None:
        with self._measured("check"):
            await self._executor.check()

    async def close(self) -> None:
        await self._executor.close()

    @contextmanager
    def _measured(self, call: str) -> Iterator[None]:
        started, outcome = time.perf_counter(), "failed"
        try:
            with self._telemetry.span(f"executor {call}"):
                yield
            outcome = "ok"
        finally:
            seconds = time.perf_counter() - started
            self._telemetry.metrics.executor_call.labels(call, outcome).observe(seconds)
