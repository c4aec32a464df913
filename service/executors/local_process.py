"""Trainers as child processes of this machine that outlive the service: a restart finds them again."""

import asyncio
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from service.executors.base import Execution, ExecutionState
from service.processes import DetachedProcess

# The trainer gets what it needs to find Python, the GPU, base models, the object storage and W&B, and nothing else: no
# API keys of ours, no database URL.
_PASSED_ON = (
    *("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "SSL_CERT_FILE", "LD_LIBRARY_PATH"),
    "FETTLE_WORK_DIR",
)
_PASSED_ON_PREFIXES = ("AWS_", "HF_", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "WANDB_")


class LocalProcessExecutor:
    def __init__(
        self,
        folder: Path,
        grace: timedelta,
        s3_endpoint_url: str | None,
        s3_region: str | None,
        wandb_environment: Mapping[str, str],
    ) -> None:
        """`folder` gets one folder for each execution: its lock, pid, exit code and log."""
        self._folder = folder
        self._grace = grace
        self._environment = _trainer_environment(s3_endpoint_url, s3_region) | dict(wandb_environment)

    async def start(self, name: str, spec_uri: str) -> None:
        arguments = [sys.executable, "-m", "trainer_image", spec_uri]
        await asyncio.to_thread(self._process(name).start, arguments, self._environment)

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

    def _process(self, name: str) -> DetachedProcess:
        return DetachedProcess(self._folder / name)


def _trainer_environment(s3_endpoint_url: str | None, s3_region: str | None) -> dict[str, str]:
    environment = {
        name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    if s3_endpoint_url:
        environment["AWS_ENDPOINT_URL_S3"] = s3_endpoint_url
    if s3_region:
        environment["AWS_DEFAULT_REGION"] = s3_region
    return environment
