"""What is told of each request: numbers, a line of the access log, a span. The outermost middleware."""

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import CLIENT_CLOSED_REQUEST
from service.operations.telemetry import Telemetry

if TYPE_CHECKING:
    from opentelemetry.trace import Span

log = logging.getLogger("service.access")

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
"""Any other method, path or code: clients could invent more of them than a label may have."""
PROBES = frozenset({"/livez", "/readyz", "/health"})

_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass
class _Answer:
    status: int = CLIENT_CLOSED_REQUEST
    """Until an answer begins: when none does, the client has left, or was left by a service that stops."""
    first_byte_at: float | None = None


class RequestTelemetry:
    """Lower down, whoever knows more of a request leaves it in its state: `caller`, `error_code`, `base_model`."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry, has_access_log: bool) -> None:
        self._app = app
        self._telemetry = telemetry
        self._has_access_log = has_access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        started, answer = time.perf_counter(), _Answer()

        async def send_and_look(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
            elif answer.first_byte_at is None and message.get("body"):
                answer.first_byte_at = time.perf_counter()
            await send(message)

        in_progress = self._telemetry.metrics.requests_in_progress
        in_progress.inc()
        with self._span(scope) as span:
            try:
                await self._app(scope, receive, send_and_look)
            finally:
                in_progress.dec()
                self._count(scope, answer, started)
                if self._has_access_log:
                    _write_down(scope, answer.status, time.perf_counter() - started)
                if span is not None:
                    _describe(span, scope, answer.status)

    @contextmanager
    def _span(self, scope: Scope) -> "Iterator[Span | None]":
        if self._telemetry.tracing is None:
            yield None
            return
        with self._telemetry.tracing.request_span(_method(scope), Headers(scope=scope)) as span:
            yield span

    def _count(self, scope: Scope, answer: _Answer, started: float) -> None:
        metrics, state, seconds = self._telemetry.metrics, scope["state"], time.perf_counter() - started
        method, route, status = _method(scope), _route(scope), str(answer.status)
        metrics.requests.labels(method, route, status).inc()
        metrics.request_time.labels(method, route).observe(seconds)
        if answer.status >= 400:
            code = state.get("error_code")
            metrics.errors.labels(code if code and _CODE.fullmatch(code) else OTHER).inc()
        if (base_model := state.get("base_model")) is not None:
            metrics.gateway_time.labels(base_model, status).observe(seconds)
            if answer.first_byte_at is not None and answer.status < 400:
                metrics.gateway_first_byte.labels(base_model).observe(answer.first_byte_at - started)


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in METHODS else OTHER


def _route(scope: Scope) -> str:
    """The template, never the path."""
    return getattr(scope.get("route"), "path", OTHER)


def _describe(span: "Span", scope: Scope, status: int) -> None:
    route = _route(scope)
    span.update_name(f"{_method(scope)} {route}")
    span.set_attributes({"http.route": route, "http.response.status_code": status})


def _write_down(scope: Scope, status: int, seconds: float) -> None:
    route, caller = _route(scope), scope["state"].get("caller")
    if route in PROBES and status < 400:
        return
    fields: dict[str, Any] = {
        "method": _method(scope),
        "route": route,
        "status": status,
        "ms": round(1000 * seconds, 1),
        "error_code": scope["state"].get("error_code"),
        "project_id": None if caller is None else caller.project_id,
        "key_id": None if caller is None else caller.key_id,
    }
    known = {name: value for name, value in fields.items() if value is not None}
    log.info("%s %s %d", fields["method"], route, status, extra=known)
