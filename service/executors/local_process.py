"""Trainers as child processes of this machine that outlive the service: a restart finds them again."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path

from service.executors.base import Execution, ExecutionLog, ExecutionState, Launch, OnChange
from service.processes import DetachedProcess

# The trainer gets what it needs to find Python, the GPU, base models, the object storage and W&B, and nothing else: no
# API keys of ours, no database URL.
_PASSED_ON = (
    *("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "SSL_CERT_FILE", "LD_LIBRARY_PATH"),
    "FETTLE_WORK_DIR",
)
_PASSED_ON_PREFIXES = ("AWS_", "HF_", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "WANDB_")


CONTAINER = "trainer"
_READ_BYTES = 1 << 20


class LocalProcessExecutor:
    def __init__(
        self,
        folder: Path,
        grace: timedelta,
        environment: Mapping[str, str],
    ) -> None:
        """`folder` gets one folder for each execution: its lock, pid, exit code and log. `environment`: what every
        trainer gets besides what is passed on to it."""
        self._folder = folder
        self._grace = grace
        self._environment = _passed_on() | dict(environment)

    async def start(self, launch: Launch) -> None:
        arguments = [sys.executable, "-m", "trainer_image", launch.spec_uri]
        await asyncio.to_thread(self._process(launch.name).start, arguments, self._environment)

    async def observe(self, name: str) -> Execution:
        process = self._process(name)
        if process.is_alive():
            return Execution(ExecutionState.RUNNING)
        exit_code = process.exit_code()
        if exit_code is None:
            return Execution(ExecutionState.GONE)
        return Execution(ExecutionState.EXITED, exit_code)

    async def interrupt(self, name: str) -> None:
        self._process(name).interrupt()

    async def stop(self, name: str) -> None:
        await self._process(name).stop(self._grace)

    async def log_tail(self, name: str) -> str:
        return await asyncio.to_thread(self._process(name).log_tail)

    async def logs(self, name: str) -> AsyncIterator[ExecutionLog]:
        path = self._process(name).log_path
        if path.exists():
            yield ExecutionLog(CONTAINER, _read(path))

    async def watch(self, on_change: OnChange) -> None:
        await asyncio.Event().wait()  # a look at a process costs nothing

    async def check(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def _process(self, name: str) -> DetachedProcess:
        return DetachedProcess(self._folder / name)


async def _read(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _READ_BYTES):
            yield chunk


def _passed_on() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
