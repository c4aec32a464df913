"""How a run is told to stop and leave a state to go on from, and what is left in storage of such states."""

import time

from service.database.tables import JobRow
from service.dispatcher.change import Change
from service.dispatcher.parts import Parts, run_prefix


async def ask_to_stop(job: JobRow, parts: Parts) -> Change:
    """SIGTERM the first time; after the grace, by force: the next attempt then goes on from an older state, or none."""
    assert job.execution is not None
    now = time.time()
    if job.stopping_since is None:
        await parts.executor.interrupt(job.execution)
        return Change(columns={"stopping_since": now}, due_in=parts.settings.poll_interval)
    if now - job.stopping_since > parts.settings.pause_grace.total_seconds():
        await parts.executor.stop(job.execution)
    return Change(due_in=parts.settings.poll_interval)


async def drop_old_state(job: JobRow, newest: str | None, parts: Parts) -> None:
    """`newest` is the folder of the state that takes the place of the job's; None: there is no newer one."""
    if newest is not None and job.resume_from not in (None, newest):
        await parts.storage.delete_prefix(f"{job.resume_from}/")


async def drop_all_states(job: JobRow, parts: Parts) -> None:
    """Of a job that has ended: also those that no event told of."""
    for attempt in range(1, job.attempt + 1):
        await parts.storage.delete_prefix(f"{run_prefix(job, attempt)}/state/")
