"""The dispatcher: claims due jobs, takes a step for each at the same time, applies what the steps want changed."""

import asyncio
import logging
import time
from collections.abc import Collection
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from service.database.claims import claim_due, give_back, locked_row, renew_locks
from service.database.tables import JobRow
from service.dispatcher.admission import admit_queued
from service.dispatcher.change import Change
from service.dispatcher.parts import Parts
from service.dispatcher.reconcile import take_step
from service.files.repository import replace_file
from service.fine_tuning.repository import add_new_events, make_due, replace_checkpoint
from service.fine_tuning.status import JobStatus, checked_transition
from service.models.repository import replace_model
from service.polling import Polling, cancel_all
from service.webhooks.deliveries import record_event

log = logging.getLogger(__name__)

MAX_STEPS_AT_ONCE = 16
LOCK_TIME = timedelta(seconds=30)
RETRY_AFTER_ERROR = timedelta(seconds=2)  # storage or an executor that does not answer now


class Dispatcher:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._polling = Polling("the dispatcher", self._claim, parts.settings.poll_interval)
        # Should it end, jobs are looked at less often until it is started again, and that is all.
        self._watch = Polling("the watch of executions", self._watch_executions, RETRY_AFTER_ERROR)
        self._steps: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        """There is work: do not wait for the next poll."""
        self._polling.wake()

    async def run(self) -> None:
        """Until cancelled. Steps in flight are then cancelled too; what they did not apply is taken again later."""
        watch = asyncio.create_task(self._watch.run(), name="watch of executions")
        try:
            await self._polling.run()
        finally:
            await cancel_all((watch, *self._steps))

    async def _claim(self) -> None:
        await admit_queued(self._parts.sessions, self._parts.settings.max_running_jobs)
        room = MAX_STEPS_AT_ONCE - len(self._steps)
        if room <= 0:
            return
        async with self._parts.sessions.begin() as session:
            jobs = await claim_due(session, JobRow, room, LOCK_TIME)
        for job in jobs:
            step = asyncio.create_task(self._step(job), name=f"step of {job.id}")
            self._steps.add(step)
            step.add_done_callback(self._steps.discard)

    async def _watch_executions(self) -> None:
        await self._parts.executor.watch(self._look_at)

    async def _look_at(self, executions: Collection[str]) -> None:
        """They have changed where they run: their jobs are due now."""
        async with self._parts.sessions.begin() as session:
            await make_due(session, executions)
        self.wake()

    async def _step(self, job: JobRow) -> None:
        renewal = asyncio.create_task(self._keep_locked(job))
        try:
            with self._parts.telemetry.step("job", job.id, job.status):
                change = await take_step(job, self._parts)
        except Exception:  # a bug or a part that is away: told in the log, tried again, other jobs go on
            log.exception("the step of job %s (%s) failed", job.id, job.status)
            change = Change(due_in=RETRY_AFTER_ERROR)
        except asyncio.CancelledError:
            await give_back(self._parts.sessions, job)
            raise
        finally:
            renewal.cancel()
        try:
            await self._apply(job, change)
        except Exception:  # the lock runs out and the same step is taken again
            log.exception("the step of job %s (%s) could not be written down", job.id, job.status)

    async def _keep_locked(self, job: JobRow) -> None:
        while True:
            await asyncio.sleep(LOCK_TIME.total_seconds() / 3)
            async with self._parts.sessions.begin() as session:
                renewed = await renew_locks(session, JobRow, [job], LOCK_TIME)
            if not renewed:
                log.warning("job %s was taken over by another dispatcher", job.id)
                return

    async def _apply(self, job: JobRow, change: Change) -> None:
        async with locked_row(self._parts.sessions, job) as (session, row):
            if row is None:
                return
            if row.status != job.status:  # cancelled meanwhile: what the step saw is void
                row.due_at = time.time()
            else:
                was_made_due = row.due_at != job.due_at  # paused, resumed, or something happened where it runs
                await _write(session, row, change)
                if was_made_due:  # meanwhile: look again, with that in mind
                    row.due_at = time.time()
            is_due = row.due_at is not None and row.due_at <= time.time()
        self._parts.telemetry.job_changed(job, row)
        if is_due or change.status is not None or change.due_in is None:  # it makes room, or waits to be admitted
            self.wake()


async def _write(session: AsyncSession, row: JobRow, change: Change) -> None:
    if change.status is not None:
        row.status = checked_transition(JobStatus(row.status), change.status)
        if change.status.is_final:
            await record_event(session, row.project_id, f"fine_tuning.job.{change.status}", row.id)
    for name, value in change.columns.items():
        setattr(row, name, value)
    row.due_at = None if change.due_in is None else time.time() + change.due_in.total_seconds()
    for checkpoint in change.checkpoints:
        await replace_checkpoint(session, checkpoint)
    for model in change.models:
        await replace_model(session, model)
    for file in change.files:
        await replace_file(session, file)
    await add_new_events(session, row.id, change.events)
