"""What the service's parts tell of themselves, in one line each: numbers always, spans where there is a collector."""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, cast

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from service.database.tables import JobRow
from service.fine_tuning.status import JobStatus
from service.inference.routing import AdapterRefused, ServedModel
from service.operations import log_context
from service.operations.metrics import Metrics
from service.operations.tracing import Tracing
from service.settings import Settings


class Telemetry:
    def __init__(self, settings: Settings) -> None:
        self.metrics = Metrics(settings.role)
        self.tracing = Tracing(settings.otlp_endpoint, settings.role) if settings.otlp_endpoint else None

    def span(self, name: str, **attributes: str) -> AbstractContextManager[object]:
        return nullcontext() if self.tracing is None else self.tracing.span(name, attributes)

    @contextmanager
    def step(self, work: Literal["job", "batch"], row_id: str, status: str) -> Iterator[None]:
        """Around one step, in a task of its own: what that task logs from here on carries the id."""
        (log_context.job_id if work == "job" else log_context.batch_id).set(row_id)
        started = time.perf_counter()
        try:
            with self.span(f"{work} {status}", **{f"fettle.{work}.id": row_id}):
                yield
        except Exception:
            self.metrics.step_errors.labels(work, status).inc()
            raise
        finally:
            self.metrics.step.labels(work, status).observe(time.perf_counter() - started)

    def watch_engine(self, engine: AsyncEngine, size: int) -> None:
        pool = cast(QueuePool, engine.pool)
        self.metrics.watch_connections(pool.checkedout, lambda: size)
        if self.tracing is not None:
            self.tracing.watch_engine(engine)

    def job_changed(self, before: JobRow, after: JobRow) -> None:
        """`before` is the row as it was claimed, `after` as it was written."""
        metrics, base = self.metrics, after.base_model
        if before.started_at is None and after.started_at is not None:
            metrics.job_queue.labels(base).observe(after.started_at - after.created_at)
        if after.due_at is not None or not JobStatus(after.status).is_final:
            return  # it goes on, or something of it is still to be cleaned up
        metrics.jobs_ended.labels(after.status, (after.error or {}).get("code", "")).inc()
        if after.started_at is not None and after.finished_at is not None:
            metrics.job_run.labels(base, after.status).observe(after.finished_at - after.started_at)
        if after.status == JobStatus.SUCCEEDED:
            metrics.trained_tokens.labels(base).inc(after.trained_tokens or 0)

    def measured_load(self, load: Callable[[ServedModel], Awaitable[None]]) -> Callable[[ServedModel], Awaitable[None]]:
        async def measured(model: ServedModel) -> None:
            started, outcome = time.perf_counter(), "failed"
            try:
                with self.span("load adapter", **{"fettle.base_model": model.base.name}):
                    await load(model)
                outcome = "loaded"
            except AdapterRefused:
                outcome = "refused"
                raise
            finally:
                self.metrics.adapter_load.labels(model.base.name, outcome).observe(time.perf_counter() - started)

        return measured
