"""What the dispatcher asks of a place where trainers run. An execution is one start of one job, found by its name."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol


class ExecutionState(Enum):
    RUNNING = auto()
    EXITED = auto()
    """`exit_code` tells how."""
    GONE = auto()
    """It is not there, and nobody knows how it ended: killed with everything around it, or never started."""


@dataclass(frozen=True)
class Execution:
    state: ExecutionState
    exit_code: int | None = None


class Executor(Protocol):
    async def start(self, name: str, spec_uri: str) -> None:
        """Idempotent: a second start under the same name finds the first."""

    async def observe(self, name: str) -> Execution: ...

    async def interrupt(self, name: str) -> None:
        """SIGTERM, and returns at once: the trainer saves a state and exits. Idempotent."""

    async def stop(self, name: str) -> None:
        """SIGTERM, and SIGKILL after the grace period; returns when nothing runs any more. Idempotent."""

    async def log_tail(self, name: str) -> str:
        """The end of what the trainer printed, for the service's own log."""
