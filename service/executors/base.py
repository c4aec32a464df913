"""What the dispatcher asks of a place where trainers run. An execution is one attempt of one job, found by its name.

The place may start the trainer of an execution again by itself, as Kubernetes does after a crash or an eviction: the
trainer then finds in object storage what it did before.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal, Protocol

from tuning.contract import JobError
from tuning.resources import TrainingResources


class ExecutionState(Enum):
    PENDING = auto()
    """It was accepted and nothing of it runs: it waits for a place, an image, or to be started again."""
    RUNNING = auto()
    EXITED = auto()
    """`exit_code` tells how."""
    GONE = auto()
    """It is not there, and nobody knows how it ended: killed with everything around it, or never started."""


@dataclass(frozen=True)
class Note:
    """What the place has to tell of an execution in plain words, for the events of its job."""

    key: str
    """What it is about, unique in its execution: it is told once."""
    message: str
    level: Literal["info", "warn", "error"] = "info"


@dataclass(frozen=True)
class Execution:
    state: ExecutionState
    exit_code: int | None = None
    notes: tuple[Note, ...] = ()
    """All so far, oldest first; the same ones again at every look."""
    error: JobError | None = None
    """Why it has failed and another attempt would too; None: nobody knows, or it has not."""


@dataclass(frozen=True)
class Launch:
    """What is to be started."""

    name: str
    spec_uri: str
    job_id: str
    project_id: str
    base_model: str
    """Its name in the catalogue."""
    attempt: int
    resources: TrainingResources


@dataclass(frozen=True)
class ExecutionLog:
    container: str
    """Unique in its execution, and fit for an object's name."""
    chunks: AsyncIterator[bytes]


OnChange = Callable[[Collection[str]], Awaitable[None]]
"""Told the names of executions that should be looked at."""


class Executor(Protocol):
    async def start(self, launch: Launch) -> None:
        """Idempotent: a second start under the same name finds the first."""

    async def observe(self, name: str) -> Execution: ...

    async def interrupt(self, name: str) -> None:
        """SIGTERM, and returns at once: the trainer saves a state and exits. Idempotent."""

    async def stop(self, name: str) -> None:
        """SIGTERM, and SIGKILL after the grace period; returns when nothing runs any more. Idempotent."""

    async def log_tail(self, name: str) -> str:
        """The end of what the trainer printed, for the service's own log."""

    def logs(self, name: str) -> AsyncIterator[ExecutionLog]:
        """What each container of the execution that is still there printed, crashed ones too. Read each before the
        next."""
        ...

    async def watch(self, on_change: OnChange) -> None:
        """Until cancelled: keeps an eye on the place, where that is cheaper than looking at each execution."""

    async def check(self) -> None:
        """Raises ExecutorUnavailable when nothing could be started now."""

    async def close(self) -> None:
        """Lets go of connections; what runs goes on."""


class ExecutorUnavailable(Exception):
    """The place does not answer, or refuses us; the message says what to do."""
