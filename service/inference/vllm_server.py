"""The vLLM processes of this service: one per base model, started on demand, kept, found again after a restart.

Under the serving folder, for each base model:

    chat_template.jinja, generation_config.json   what vLLM is to use, as training used it
    adapters/                                     the running process's own copies, emptied before a start
    runs/0001/ …                                  a start: a DetachedProcess (its log!), and besides
        server.json                               port, key and the hash of the configuration; mode 0600
        was_ready                                 it has answered: from now on no answer means that it is dead
"""

import asyncio
import json
import logging
import os
import secrets
import shutil
import socket
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import httpx

from service.errors import Unavailable
from service.inference.engines import CLIENT_TIMEOUT, Engine, is_healthy
from service.inference.vllm_command import configuration_hash, has_vllm, vllm_arguments, vllm_environment
from service.processes import DetachedProcess
from service.settings import Settings
from tuning.catalogue import CatalogueEntry, CatalogueError
from tuning.vllm_arguments import KEY_VARIABLE, write_model_files

log = logging.getLogger(__name__)

KEPT_RUNS = 5
STOP_GRACE = timedelta(seconds=10)
HEALTH_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class _Start:
    """As `server.json` tells it."""

    port: int
    key: str
    configuration: str

    @property
    def engine(self) -> Engine:
        return Engine(f"http://127.0.0.1:{self.port}", self.key)


class VllmServers:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._servers: dict[str, _VllmServer] = {}
        self.client = httpx.AsyncClient(
            timeout=CLIENT_TIMEOUT,
            limits=httpx.Limits(max_connections=None),
            trust_env=False,  # no proxy between us and loopback
        )

    def serves(self, base: CatalogueEntry) -> bool:
        return True

    async def ready(self, base: CatalogueEntry, wait: timedelta | None = None) -> Engine:
        """Starts the base's vLLM where none runs, and waits at most `wait`, or else the setting `serving_wait`.

        Raises Unavailable when it is not ready by then, or cannot be started.
        """
        if base.name not in self._servers:
            self._servers[base.name] = _VllmServer(base, self._settings, self.client)
        return await self._servers[base.name].ready(self._settings.serving_wait if wait is None else wait)

    def suspect(self, base: CatalogueEntry, engine: Engine) -> None:
        """Has the next `ready` look whether this engine still lives, and start another when it does not."""
        self._servers[base.name].suspect(engine)

    async def is_healthy(self, engine: Engine) -> bool:
        return await is_healthy(engine, self.client)

    async def stop_all(self) -> None:
        """Stops every vLLM under the serving folder, an earlier service's too."""
        for server in self._servers.values():
            server.abandon()
        self._servers.clear()
        runs = [run for folder in self._settings.serving_dir.glob("*") if (run := _latest_run(folder)) is not None]
        await asyncio.gather(*(DetachedProcess(run).stop(STOP_GRACE) for run in runs))
        await self.client.aclose()

    async def aclose(self) -> None:
        """Lets go of the processes without stopping them: the next service finds them."""
        for server in self._servers.values():
            server.abandon()
        await self.client.aclose()


class _VllmServer:
    def __init__(self, base: CatalogueEntry, settings: Settings, client: httpx.AsyncClient) -> None:
        self._base = base
        self._settings = settings
        self._client = client
        self._folder = settings.serving_dir / base.name
        self._engine: Engine | None = None
        self._starting: asyncio.Task[Engine] | None = None

    async def ready(self, wait: timedelta) -> Engine:
        if self._engine is not None:
            return self._engine
        if self._starting is None:
            self._starting = asyncio.create_task(self._find_or_start(), name=f"vllm {self._base.name}")
            self._starting.add_done_callback(self._end_start)
        try:
            return await asyncio.wait_for(asyncio.shield(self._starting), wait.total_seconds())
        except TimeoutError:
            message = f"The model '{self._base.name}' is being loaded. Try again in a few seconds."
            raise Unavailable(message, retry_after_seconds=5, code="model_loading") from None

    def suspect(self, engine: Engine) -> None:
        if self._engine == engine:
            self._engine = None

    def abandon(self) -> None:
        if self._starting is not None:
            self._starting.cancel()

    def _end_start(self, starting: asyncio.Task[Engine]) -> None:
        self._starting = None
        if not starting.cancelled() and starting.exception() is None:
            self._engine = starting.result()

    async def _find_or_start(self) -> Engine:
        if not has_vllm():
            raise Unavailable(
                "This server has no vLLM: models are tuned but not served. It needs Linux; `make install` installs it.",
                retry_after_seconds=3600,
                code="serving_unavailable",
            )
        try:
            await asyncio.to_thread(write_model_files, self._base, self._folder)
        except CatalogueError as error:
            log.error("cannot serve %s: %s", self._base.name, error)
            raise self._failed_to_load() from error
        arguments = vllm_arguments(self._base, self._settings, self._folder)
        environment = vllm_environment(self._base, self._settings, self._folder / "adapters")
        configuration = configuration_hash(arguments, environment, self._folder)

        run = _latest_run(self._folder)
        if run is not None and (start := _read_start(run)) is not None:
            if start.configuration == configuration and await self._is_starting_or_healthy(run, start.engine):
                log.info("found the vLLM of %s on port %d", self._base.name, start.port)
                return await self._until_healthy(run, start.engine)
            await DetachedProcess(run).stop(STOP_GRACE)

        run = await asyncio.to_thread(self._prepare_run, run)
        start = _Start(_free_port(), secrets.token_urlsafe(32), configuration)
        _write_start(run, start)
        log.info("starting vLLM for %s on port %d, log in %s", self._base.name, start.port, run)
        environment[KEY_VARIABLE] = start.key
        DetachedProcess(run).start([*arguments, "--port", str(start.port)], environment)
        return await self._until_healthy(run, start.engine)

    async def _is_starting_or_healthy(self, run: Path, engine: Engine) -> bool:
        if not _is_running(run):
            return False
        return not (run / "was_ready").exists() or await is_healthy(engine, self._client)

    async def _until_healthy(self, run: Path, engine: Engine) -> Engine:
        """However long it takes: a large model may be downloaded first. Requests wait as long as they want to."""
        while not await is_healthy(engine, self._client):
            if not _is_running(run):
                process = DetachedProcess(run)
                log.error("vLLM for %s ended before it was ready:\n%s", self._base.name, process.log_tail())
                await process.stop(STOP_GRACE)
                raise self._failed_to_load()
            await asyncio.sleep(HEALTH_POLL_SECONDS)
        (run / "was_ready").touch()
        return engine

    def _prepare_run(self, last: Path | None) -> Path:
        """A new folder for the next start; nothing runs now, so old adapters and all but the last logs can go."""
        shutil.rmtree(self._folder / "adapters", ignore_errors=True)
        number = 1 if last is None else int(last.name) + 1
        run = self._folder / "runs" / f"{number:04d}"
        run.mkdir(parents=True)
        for old in sorted(run.parent.iterdir())[:-KEPT_RUNS]:
            shutil.rmtree(old)
        return run

    def _failed_to_load(self) -> Unavailable:
        message = f"The model '{self._base.name}' could not be loaded. The log of this server says why."
        return Unavailable(message, retry_after_seconds=30, code="model_not_loaded")


def _is_running(run: Path) -> bool:
    process = DetachedProcess(run)
    return process.is_alive() and process.exit_code() is None  # a straggler of a dead group may still hold the lock


def _latest_run(folder: Path) -> Path | None:
    return max((folder / "runs").glob("*"), default=None)


def _read_start(run: Path) -> _Start | None:
    """None when the service died between making the folder and starting vLLM in it."""
    try:
        return _Start(**json.loads((run / "server.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write_start(run: Path, start: _Start) -> None:
    descriptor = os.open(run / "server.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(start), file)


def _free_port() -> int:
    """Free now; vLLM binds it some seconds later. Should it be taken in between, the start fails and is repeated."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
