"""How long a job would train, by what the newest finished ones of this installation took."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.tables import JobRow
from service.fine_tuning.estimate_schemas import TimeEstimate
from service.fine_tuning.status import JobStatus

NEWEST = 20
_LOOKED_AT = 500
"""Finished jobs of all bases, newest first: what a query reads stays bounded where a base is rarely tuned."""
_TRAIN = "train"
"""The stage of `JobResult.seconds` that grows with the tokens."""


@dataclass(frozen=True)
class FinishedRun:
    method: str
    resources: dict[str, Any] | None
    trained_tokens: int
    seconds: dict[str, float]

    @property
    def tokens_per_second(self) -> float:
        return self.trained_tokens / self.seconds[_TRAIN]

    @property
    def other_seconds(self) -> float:
        return sum(seconds for stage, seconds in self.seconds.items() if stage != _TRAIN)


async def list_finished_runs(session: AsyncSession, base_model: str) -> list[FinishedRun]:
    """Of all projects: they share the machines. Only those of one attempt, which tell the time of the whole run."""
    newest = (
        select(JobRow.seq, JobRow.base_model, JobRow.method_type, JobRow.resources, JobRow.trained_tokens)
        .add_columns(JobRow.seconds, JobRow.attempt)
        .where(JobRow.status == JobStatus.SUCCEEDED)
        .order_by(JobRow.seq.desc())
        .limit(_LOOKED_AT)
        .subquery()
    )
    of_base = (
        select(newest.c.method_type, newest.c.resources, newest.c.trained_tokens, newest.c.seconds)
        .where(newest.c.base_model == base_model, newest.c.attempt == 1, newest.c.trained_tokens > 0)
        .where(newest.c.seconds.is_not(None))
        .order_by(newest.c.seq.desc())
        .limit(NEWEST)
    )
    runs = [FinishedRun(*row) for row in await session.execute(of_base)]
    return [run for run in runs if run.seconds.get(_TRAIN, 0) > 0]


def estimate_time(
    runs: Sequence[FinishedRun], method: str, resources: dict[str, Any] | None, trained_tokens: int
) -> TimeEstimate:
    """By the runs that are most like it: of its method and with its resources, else of its method, else all. The speed
    of reinforcement, which mostly draws answers, has nothing to do with that of others."""
    of_method = [run for run in runs if run.method == method]
    if method == "reinforcement":
        runs = of_method
    if not runs:
        which = "reinforcement job" if method == "reinforcement" else "job"
        return TimeEstimate(value=None, because=f"no {which} of this base has finished here yet")
    alike = [run for run in of_method if run.resources == resources] or of_method or runs
    speed = median(run.tokens_per_second for run in alike)
    seconds = trained_tokens / speed + median(run.other_seconds for run in alike)
    jobs = f"{len(alike)} finished job{'s' if len(alike) > 1 else ''} of this base"
    other = "" if of_method else f" by other methods than {method}"
    because = f"measured on {jobs}{other} on this installation ({speed:,.0f} tokens/s median)"
    return TimeEstimate(value=round(seconds, 1), because=because)
