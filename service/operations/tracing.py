"""Spans for an OpenTelemetry collector: requests, statements, what vLLM is asked, and the steps of jobs and batches.

OpenTelemetry's packages are imported when there is a collector to send to. Its own instrumentations would do the same,
but each pins other versions of SQLAlchemy or of OpenTelemetry than the rest of this project needs.

Spans carry no parameters of statements, no queries of URLs, no headers and no bodies.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from service import VERSION

if TYPE_CHECKING:
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

EXPORT_SECONDS = 3
"""For one export, tried again meanwhile; what a collector that is away did not take by then is dropped."""
MAX_STATEMENT_CHARACTERS = 1000


class Tracing:
    def __init__(self, endpoint: str, role: str) -> None:
        """`endpoint`: the collector's, without the path. A thread sends spans in the background and drops what is too
        much; sampling and a collector's headers are set by OpenTelemetry's own `OTEL_*` variables."""
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": f"fettle-{role}", "service.version": VERSION})
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._trace = trace
        self._tracer = self._provider.get_tracer("fettle")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(self, name: str, attributes: Mapping[str, str]) -> Iterator[None]:
        with self._current_span(name, attributes=attributes):
            yield

    @contextmanager
    def request_span(self, method: str, headers: Mapping[str, str]) -> "Iterator[Span]":
        """Goes on with the caller's trace where the headers name one. It gets its name once its route is known."""
        context = self._propagator.extract(headers)
        attributes = {"http.request.method": method}
        with self._current_span(
            method, context=context, kind=self._trace.SpanKind.SERVER, attributes=attributes
        ) as span:
            yield span

    @contextmanager
    def _current_span(self, name: str, **options: Any) -> "Iterator[Span]":
        options |= {"record_exception": False, "set_status_on_exception": False}
        with self._tracer.start_as_current_span(name, **options) as span:
            try:
                yield span
            except BaseException as error:
                self.fail(span, error)
                raise

    def trace_id(self) -> str | None:
        """Of what is under way here."""
        context = self._trace.get_current_span().get_span_context()
        return self._trace.format_trace_id(context.trace_id) if context.is_valid else None

    def watch_client(self, client: httpx.AsyncClient) -> None:
        """What this client asks within a span becomes a span, and the server is told of the trace."""
        client._transport = _TracedTransport(client._transport, self)  # httpx has no public way to do so afterwards

    def watch_engine(self, engine: AsyncEngine) -> None:
        """Statements within a span become spans; the polling of the loops does not."""
        event.listen(engine.sync_engine, "before_cursor_execute", self._begin_statement)
        event.listen(engine.sync_engine, "after_cursor_execute", self._end_statement)
        event.listen(engine.sync_engine, "handle_error", self._end_failed_statement)

    async def close(self) -> None:
        """Sends what is left, and waits for a collector only as long as one export may take."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, EXPORT_SECONDS + 1)

    def begin_call(self, request: httpx.Request) -> "Span | None":
        """None: outside of any span, such as a look whether a server has started."""
        if not self._trace.get_current_span().is_recording():
            return None
        url = request.url
        attributes = {"http.request.method": request.method, "server.address": url.host, "url.path": url.path}
        span = self._tracer.start_span(
            f"{request.method} {url.path}", kind=self._trace.SpanKind.CLIENT, attributes=attributes
        )
        self._propagator.inject(request.headers, self._trace.set_span_in_context(span))
        return span

    def fail(self, span: "Span", error: BaseException) -> None:
        """With the kind of the error alone: its text may carry what was sent."""
        span.set_status(self._trace.StatusCode.ERROR, type(error).__name__)

    def _begin_statement(
        self, connection: Any, cursor: Any, statement: str, values: Any, context: Any, _: bool
    ) -> None:
        if context is None or not self._trace.get_current_span().is_recording():
            return
        attributes = {
            "db.system.name": connection.dialect.name,
            "db.query.text": statement[:MAX_STATEMENT_CHARACTERS],
        }
        name = statement.split(None, 1)[0].upper()
        context.fettle_span = self._tracer.start_span(name, kind=self._trace.SpanKind.CLIENT, attributes=attributes)

    def _end_statement(self, connection: Any, cursor: Any, statement: str, values: Any, context: Any, _: bool) -> None:
        if (span := getattr(context, "fettle_span", None)) is not None:
            span.end()

    def _end_failed_statement(self, failure: Any) -> None:
        if (span := getattr(failure.execution_context, "fettle_span", None)) is not None:
            self.fail(span, failure.original_exception)
            span.end()


class _TracedTransport(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.AsyncBaseTransport, tracing: Tracing) -> None:
        self._inner = inner
        self._tracing = tracing

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        span = self._tracing.begin_call(request)
        if span is None:
            return await self._inner.handle_async_request(request)
        try:
            response = await self._inner.handle_async_request(request)
        except BaseException as error:
            self._tracing.fail(span, error)
            span.end()
            raise
        span.set_attribute("http.response.status_code", response.status_code)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _TracedStream(response.stream, span)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _TracedStream(httpx.AsyncByteStream):
    """The span lasts until the answer has been read, or given up."""

    def __init__(self, inner: httpx.AsyncByteStream, span: "Span") -> None:
        self._inner = inner
        self._span = span

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            yield chunk

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            self._span.end()
