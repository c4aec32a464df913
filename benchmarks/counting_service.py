"""The real app in a process of its own, that tells with each answer how many SQL statements it took.

The dispatcher stands still: what is measured is the API, and jobs that a benchmark creates must not train.
"""

import asyncio
import multiprocessing
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpx
import uvicorn
from sqlalchemy import Engine, event
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATEMENTS_HEADER = "x-sql-statements"

_statements: ContextVar[list[str] | None] = ContextVar("statements", default=None)


class CountStatements:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        statements: list[str] = []
        _statements.set(statements)

        async def send_with_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[STATEMENTS_HEADER] = str(len(statements))
            await send(message)

        await self._app(scope, receive, send_with_count)


def _count(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
    statements = _statements.get()
    if statements is not None and not statement.startswith("BEGIN"):
        statements.append(statement)


def _serve(listener: socket.socket, settings: dict[str, Any]) -> None:
    from service.app import create_app
    from service.dispatcher.loop import Dispatcher
    from service.settings import Settings

    async def stand_still(self: Dispatcher) -> None:
        await asyncio.Event().wait()

    Dispatcher.run = stand_still  # type: ignore[method-assign]
    event.listen(Engine, "before_cursor_execute", _count)
    app = CountStatements(create_app(Settings.model_validate(settings)))
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


@contextmanager
def running_service(settings: dict[str, Any]) -> Iterator[httpx.Client]:
    """A client of the service, for the block."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    process = multiprocessing.get_context("fork").Process(target=_serve, args=(listener, settings))
    process.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
            client.get("/health").raise_for_status()  # the socket listens already: it answers once the app has started
            yield client
    finally:
        process.terminate()
        process.join()
        listener.close()
