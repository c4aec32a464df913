"""What waits in the database, asked at a scrape: jobs by status, and how late the oldest due work is."""

import logging
import time
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncEngine

from service.database.claims import is_free
from service.database.tables import BatchRow, ClaimedTable, JobRow, WebhookDeliveryRow
from service.fine_tuning.status import JobStatus
from service.operations.metrics import Metrics
from service.operations.shared_call import SharedCall

log = logging.getLogger(__name__)

KEPT = timedelta(seconds=5)
PATIENCE = timedelta(seconds=5)

_WORK: dict[str, type[ClaimedTable]] = {"jobs": JobRow, "batches": BatchRow, "webhooks": WebhookDeliveryRow}


class Backlog:
    """Every dispatcher tells the same numbers: take the largest, not the sum."""

    def __init__(self, engine: AsyncEngine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._look = SharedCall(self._measure, KEPT, PATIENCE)

    async def refresh(self) -> None:
        """Where the database does not answer the numbers are absent, which is what is known of them."""
        try:
            await self._look.result()
        except Exception as error:  # a scrape tells the rest all the same
            log.warning(
                "the backlog could not be read for the metrics: %s", getattr(error, "orig", None) or repr(error)
            )
            self._metrics.scrape_errors.inc()
            self._metrics.jobs.clear()
            self._metrics.lateness.clear()

    def close(self) -> None:
        self._look.cancel()

    async def _measure(self) -> None:
        async with self._engine.connect() as connection:
            statuses = await connection.execute(select(JobRow.status, func.count()).group_by(JobRow.status))
            counts = dict(statuses.all())
            dues = await connection.execute(union_all(*map(_oldest_due, _WORK)))
            oldest = {row.work: row.due_at for row in dues}
        now = time.time()
        for status in JobStatus:
            self._metrics.jobs.labels(status).set(counts.get(status, 0))
        for work in _WORK:
            due_at = oldest[work]
            self._metrics.lateness.labels(work).set(0 if due_at is None else max(0.0, now - due_at))


def _oldest_due(work: str) -> Select[*tuple[Any, ...]]:
    table = _WORK[work]
    conditions: list[ColumnElement[bool]] = [table.due_at <= time.time(), is_free(table)]
    return select(literal(work).label("work"), func.min(table.due_at).label("due_at")).where(*conditions)
