"""The batch runner: claims due batches, takes a step for each at the same time, applies what the steps want changed."""

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from service.batches.parts import BatchParts, batch_prefix
from service.batches.repository import LOCK_TIME, claim_due_batches, look_at
from service.batches.status import BatchStatus, checked_transition
from service.batches.steps import BatchChange, take_step
from service.database.claims import give_back, locked_row, renew_locks
from service.database.tables import BatchRow
from service.files.repository import replace_file
from service.polling import Polling, cancel_all
from service.removals.repository import add_removals
from service.webhooks.deliveries import record_event

log = logging.getLogger(__name__)

MAX_RUNS_AT_ONCE = 16  # batches whose requests are being answered; they share the room for requests evenly
MAX_STEPS_AT_ONCE = 32  # so that new ones are validated and cancelled ones end while that many run
RETRY_AFTER_ERROR = timedelta(seconds=10)  # storage that is full or away: what cannot be kept is asked again


@dataclass(frozen=True)
class _Step:
    batch: BatchRow
    stop: asyncio.Event


class BatchRunner:
    def __init__(self, parts: BatchParts) -> None:
        self._parts = parts
        self._polling = Polling("the batch runner", self._poll, parts.settings.poll_interval)
        self._steps: dict[asyncio.Task[None], _Step] = {}
        self._renewed_at = time.monotonic()

    def wake(self) -> None:
        """There is work: do not wait for the next poll."""
        self._polling.wake()

    async def run(self) -> None:
        """Until cancelled. Steps in flight are then cancelled too; what they did not apply is taken again later."""
        try:
            await self._polling.run()
        finally:
            await cancel_all(self._steps)

    async def _poll(self) -> None:
        if self._steps:
            await self._look_after()
        room = MAX_STEPS_AT_ONCE - len(self._steps)
        if room <= 0:
            return
        runs = sum(step.batch.status == BatchStatus.IN_PROGRESS for step in self._steps.values())
        can_run = self._parts.servers is not None and runs < MAX_RUNS_AT_ONCE
        for batch in await claim_due_batches(self._parts.sessions, room, can_run=can_run):
            stop = asyncio.Event()
            task = asyncio.create_task(self._step(batch, stop), name=f"step of {batch.id}")
            self._steps[task] = _Step(batch, stop)
            task.add_done_callback(self._steps.pop)

    async def _look_after(self) -> None:
        """Keeps the locks, and stops what was cancelled or taken over, here or through another service."""
        now = time.monotonic()
        if now - self._renewed_at >= LOCK_TIME.total_seconds() / 3:
            self._renewed_at = now
            claimed = [step.batch for step in self._steps.values()]
            async with self._parts.sessions.begin() as session:
                await renew_locks(session, BatchRow, claimed, LOCK_TIME)
        seen = await look_at(self._parts.sessions, {step.batch.id for step in self._steps.values()})
        for step in self._steps.values():
            batch, sight = step.batch, seen.get(step.batch.id)
            if sight is None or (sight.status, sight.lock_token) != (batch.status, batch.lock_token):
                step.stop.set()
            elif sight.expires_at <= time.time():
                batch.expires_at = sight.expires_at
                step.stop.set()

    async def _step(self, batch: BatchRow, stop: asyncio.Event) -> None:
        try:
            with self._parts.telemetry.step("batch", batch.id, batch.status):
                change = await take_step(batch, self._parts, stop)
        except Exception:  # a bug or a part that is away: told in the log, tried again, other batches go on
            log.exception("the step of %s (%s) failed", batch.id, batch.status)
            change = BatchChange(due_in=RETRY_AFTER_ERROR)
        except asyncio.CancelledError:
            await give_back(self._parts.sessions, batch)
            raise
        try:
            await self._apply(batch, change)
        except Exception:  # the lock runs out and the same step is taken again
            log.exception("the step of %s (%s) could not be written down", batch.id, batch.status)

    async def _apply(self, batch: BatchRow, change: BatchChange) -> None:
        async with locked_row(self._parts.sessions, batch) as (session, row):
            if row is None:
                return
            if row.status != batch.status:  # cancelled meanwhile: what the step saw is void
                row.due_at = time.time()
            else:
                await _write(session, row, change)
            is_due = row.due_at is not None and row.due_at <= time.time()
        if is_due:
            self.wake()


async def _write(session: AsyncSession, row: BatchRow, change: BatchChange) -> None:
    row.due_at = time.time() + change.due_in.total_seconds()
    for name, value in change.columns.items():
        setattr(row, name, value)
    for file in change.files:
        await replace_file(session, file)
    if change.status is None:
        return
    row.status = checked_transition(BatchStatus(row.status), change.status)
    if change.status.is_final:
        row.due_at = None
        add_removals(session, [batch_prefix(row)])
        await record_event(session, row.project_id, f"batch.{change.status}", row.id)
