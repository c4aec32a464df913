"""Runs an application until it is told to stop: the API's listener, the ops port's, or only the loops.

At SIGTERM or SIGINT the process says at once that it is not ready, and its loops give back what they held; open
requests may go on for a while; the ops port answers to the end. Whatever hangs, the process has ended
`ENDING_SECONDS` after the time for open requests: a killed one loses nothing either.
"""

import asyncio
import faulthandler
import logging
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Literal

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp
from uvicorn.config import LOGGING_CONFIG

from service.http_protocol import HttpProtocol
from service.operations.endpoints import Operations
from service.settings import Settings

log = logging.getLogger(__name__)

STARTUP_FAILED = 3
"""Exit code, uvicorn's too."""
KEEP_ALIVE_SECONDS = 75
"""Longer than load balancers keep idle connections (60 s mostly): who closes first must not be who is sent to."""
ENDING_SECONDS = 20
"""For all that comes after open requests: vLLM is given half of it, a collector of traces some seconds."""
_TELL_SECONDS = 1.0


def run(app: FastAPI, settings: Settings, listener: socket.socket | None, ops_listener: socket.socket | None) -> None:
    """Without a listener for the API only the loops run. Raises SystemExit when it does not come up."""
    config = _config(app, settings)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_run(app, settings, listener, ops_listener))


async def _run(
    app: FastAPI, settings: Settings, listener: socket.socket | None, ops_listener: socket.socket | None
) -> None:
    operations: Operations = app.state.operations
    async with _answering(operations, settings, ops_listener):
        if listener is None:
            server, work = None, asyncio.create_task(_run_loops(app, operations))
        else:
            server = _Server(_config(app, settings))
            work = asyncio.create_task(server.serve([listener]))
        stop = _Stop(operations, server, work, settings.stop_grace.total_seconds() + ENDING_SECONDS)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
        try:
            await work
        except asyncio.CancelledError:
            log.info("stopped before it had started")


async def _run_loops(app: FastAPI, operations: Operations) -> None:
    try:
        async with app.router.lifespan_context(app):
            await operations.health.stopping.wait()
    except Exception as error:  # as uvicorn does with what fails at the start of an application
        log.exception("the service failed")
        raise SystemExit(STARTUP_FAILED) from error


class _Stop:
    """What a signal does; a second Ctrl-C does not wait for open requests."""

    def __init__(
        self, operations: Operations, server: "_Server | None", work: asyncio.Task[None], seconds: float
    ) -> None:
        self._operations = operations
        self._server = server
        self._work = work
        self._seconds = seconds

    def __call__(self, number: int) -> None:
        if not self._operations.health.stopping.is_set():
            _end_within(self._seconds)
        is_starting = not self._operations.health.is_started
        self._operations.health.stopping.set()
        if is_starting:
            self._work.cancel()
        elif self._server is not None:
            self._server.handle_exit(number, None)


def _end_within(seconds: float) -> None:
    """With code 1, and words about what did not end. Needs neither the event loop nor Python's own lock."""
    asyncio.get_running_loop().call_later(seconds - _TELL_SECONDS, _tell_what_runs)
    faulthandler.dump_traceback_later(seconds, exit=True)  # on standard error: what each thread does


def _tell_what_runs() -> None:
    for task in asyncio.all_tasks():
        log.error("%s has not ended, and is given up in %s s: %r", task.get_name(), _TELL_SECONDS, task)


@asynccontextmanager
async def _answering(operations: Operations, settings: Settings, listener: socket.socket | None) -> AsyncIterator[None]:
    if listener is None:
        yield
        return
    server = _Server(_config(operations.create_app(), settings, lifespan="off"))
    answering = asyncio.create_task(server.serve([listener]), name="the ops port")
    try:
        yield
    finally:
        server.should_exit = True
        await answering


def _config(app: ASGIApp, settings: Settings, lifespan: Literal["on", "off"] = "on") -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",
        lifespan=lifespan,
        log_config=None if settings.log_format == "json" else LOGGING_CONFIG,  # None: they go where all others go
        log_level="info",
        timeout_graceful_shutdown=round(settings.stop_grace.total_seconds()),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        access_log=False,
    )


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are for the whole process, which may have two servers: `_Stop` has them
