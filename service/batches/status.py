"""The states of a batch and the only ways between them. This table is the documentation.

validating ──► in_progress ──► finalizing ──► completed
  │  │  │           │            │    │
  │  │  │           │            │    └─────► expired       the window ended before the last answer
  │  │  └─────────────────────────────────►                 … before the input was even read
  │  └──────────────┴────────────┴──► cancelling ──► cancelled
  └──► failed                                               the input file cannot be used
"""

from enum import StrEnum


class BatchStatus(StrEnum):
    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return not TRANSITIONS[self]

    @property
    def can_be_cancelled(self) -> bool:
        return BatchStatus.CANCELLING in TRANSITIONS[self]


TRANSITIONS: dict[BatchStatus, frozenset[BatchStatus]] = {
    BatchStatus.VALIDATING: frozenset(
        {BatchStatus.IN_PROGRESS, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLING}
    ),
    BatchStatus.IN_PROGRESS: frozenset({BatchStatus.FINALIZING, BatchStatus.CANCELLING}),
    BatchStatus.FINALIZING: frozenset({BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLING}),
    BatchStatus.CANCELLING: frozenset({BatchStatus.CANCELLED}),
    BatchStatus.COMPLETED: frozenset(),
    BatchStatus.FAILED: frozenset(),
    BatchStatus.EXPIRED: frozenset(),
    BatchStatus.CANCELLED: frozenset(),
}


def checked_transition(current: BatchStatus, new: BatchStatus) -> BatchStatus:
    """The new status. Raises AssertionError for a way that the table does not have: that is a bug."""
    if new not in TRANSITIONS[current]:
        raise AssertionError(f"a batch cannot go from {current} to {new}")
    return new
