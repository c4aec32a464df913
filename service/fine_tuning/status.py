"""The states of a job and the only ways between them. This table is the documentation.

validating_files ──► queued ──► running ──► succeeded
        │              │ ▲         │ │
        │              │ └─────────┘ │      a crashed, pre-empted or paused run is queued again
        └──────────────┴─────────────┴────► failed, cancelled

A paused job is no status of its own: `JobRow.is_paused` holds one that is queued, and stops one that is running.
"""

from enum import StrEnum


class JobStatus(StrEnum):
    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return not TRANSITIONS[self]


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.VALIDATING_FILES: frozenset({JobStatus.QUEUED, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset(
        {JobStatus.QUEUED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED},
    ),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}


def checked_transition(current: JobStatus, new: JobStatus) -> JobStatus:
    """The new status. Raises AssertionError for a way that the table does not have: that is a bug."""
    if new not in TRANSITIONS[current]:
        raise AssertionError(f"a job cannot go from {current} to {new}")
    return new
