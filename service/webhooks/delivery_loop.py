"""Sends what is due, many at once, in the background of every service."""

import asyncio
import logging
import time
from datetime import timedelta

from service.database.claims import give_back, locked_row
from service.database.engine import Sessions
from service.database.tables import WebhookDeliveryRow, WebhookEndpointRow
from service.operations.metrics import Metrics
from service.polling import Polling, cancel_all
from service.webhooks.deliveries import after_attempt
from service.webhooks.repository import claim_due_deliveries
from service.webhooks.schemas import DeliveryAttempt
from service.webhooks.sending import Sender

log = logging.getLogger(__name__)

MAX_AT_ONCE = 64


class DeliveryLoop:
    def __init__(self, sessions: Sessions, sender: Sender, interval: timedelta, metrics: Metrics) -> None:
        self._sessions = sessions
        self._sender = sender
        self._metrics = metrics
        self._polling = Polling("the delivery of webhooks", self._claim, interval)
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until cancelled. What is under way is then given back and sent again by the next service."""
        try:
            await self._polling.run()
        finally:
            await cancel_all(self._under_way)

    async def _claim(self) -> None:
        room = MAX_AT_ONCE - len(self._under_way)
        if room <= 0:
            return
        for delivery, endpoint in await claim_due_deliveries(self._sessions, room):
            task = asyncio.create_task(self._deliver(delivery, endpoint), name=f"delivery {delivery.id}")
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _deliver(self, delivery: WebhookDeliveryRow, endpoint: WebhookEndpointRow) -> None:
        try:
            if endpoint.deleted_at is not None:  # while the event was being written
                await self._cancel(delivery)
            else:
                await self._write_down(delivery, await self._sender.send(delivery, endpoint))
        except asyncio.CancelledError:
            await give_back(self._sessions, delivery)
            raise
        except Exception:  # a bug, or a database that is away: the lock runs out and the attempt is repeated
            log.exception("the delivery %s failed here", delivery.id)
        self._polling.wake()  # more may wait for their turn at this endpoint

    async def _cancel(self, delivery: WebhookDeliveryRow) -> None:
        async with locked_row(self._sessions, delivery) as (_, row):
            if row is not None:
                row.status, row.due_at = "cancelled", None

    async def _write_down(self, delivery: WebhookDeliveryRow, attempt: DeliveryAttempt) -> None:
        async with locked_row(self._sessions, delivery) as (_, row):
            if row is None:  # its endpoint was deleted, or the lock ran out
                return
            row.attempts = [*row.attempts, attempt.model_dump()]
            row.status, due_in = after_attempt(attempt, len(row.attempts))
            row.due_at = None if due_in is None else time.time() + due_in.total_seconds()
            self._metrics.webhook_deliveries.labels(row.status).inc()
            if row.status == "failed":
                log.warning("%s was given up: its webhook endpoint %s does not take it", row.id, row.endpoint_id)
