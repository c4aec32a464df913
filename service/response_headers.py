"""The headers that every answer carries: `x-request-id`, `openai-processing-ms`, `openai-version`, …"""

import logging
import time
from contextvars import ContextVar

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import render_crash
from service.ids import new_request_id

log = logging.getLogger(__name__)

OPENAI_VERSION = "2020-10-01"

_request_id: ContextVar[str] = ContextVar("request_id", default="-")


class RequestIds(logging.Filter):
    """Gives each record the id of the request that it was logged for, as `request_id`."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = _request_id.get()
        return True


class ResponseHeaders:
    """ASGI middleware. A crash behind it is logged with the request id that its client was told."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_request_id()
        _request_id.set(request_id)
        scope.setdefault("state", {})  # where `auth.py` leaves who calls
        started = time.perf_counter()
        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-version"] = OPENAI_VERSION
                if (caller := scope.get("state", {}).get("caller")) is not None:
                    headers["openai-organization"] = caller.organization_id
                    headers["openai-project"] = caller.project_id
                headers["openai-processing-ms"] = str(round(1000 * (time.perf_counter() - started)))
                if message["status"] >= 500:
                    log.error("%s %s answered %s (%s)", scope["method"], scope["path"], message["status"], request_id)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            log.exception("%s %s crashed (%s)", scope["method"], scope["path"], request_id)
            if has_started:  # too late for a status: the connection is broken off, so that the client notices
                raise
            await render_crash()(scope, receive, send_with_headers)
