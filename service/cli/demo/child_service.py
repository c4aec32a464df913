"""A service of the demo's own: `fettle serve` as a child on a free loopback port, stopped whatever happens."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import openai

from service.processes import DetachedProcess

START_SECONDS = 60
STOP_SECONDS = 30
KILL_AFTER = timedelta(seconds=10)
"""What trainer and vLLM get to end by themselves."""


class ServiceDidNotStart(Exception):
    pass


class ChildService:
    """While the block lasts the service answers at `base_url`; after it nothing that it started lives."""

    def __init__(self, data_dir: Path, models_file: Path | None) -> None:
        self.data_dir = data_dir
        self.log_path = data_dir.parent / "service.log"
        self._models_file = models_file
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "service.cli", "serve", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--data-dir", str(self.data_dir)]
        if self._models_file:
            command += ["--models", str(self._models_file)]
        # the settings of another service on this machine are not the demo's: its database, its keys
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FETTLE_")}
        with self.log_path.open("ab") as log:
            # its own session: Ctrl-C reaches the demo alone, which then stops the service in order
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.base_url, api_key="none", timeout=300)

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        with openai.OpenAI(base_url=self.base_url, api_key="none", max_retries=0) as client:
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    break
                try:
                    client.models.list()
                    return
                except openai.APIConnectionError:
                    time.sleep(0.1)
        tail = self.log_path.read_text(encoding="utf-8", errors="replace")[-3000:]
        raise ServiceDidNotStart(f"the service did not start; {self.log_path} ends with\n{tail}")

    def _stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        stop_leftovers(self.data_dir)


def stop_leftovers(data_dir: Path) -> None:
    """Stops trainers and vLLM servers, which outlive the service by design."""

    processes = [DetachedProcess(pid.parent) for pid in data_dir.rglob("pid")]

    async def stop_all() -> None:
        await asyncio.gather(*(process.stop(KILL_AFTER) for process in processes))

    asyncio.run(stop_all())


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
