"""What one step wants changed: plain data, made without a session and applied in one transaction."""

import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

from service.database.tables import CheckpointRow, FileRow, ModelRow
from service.fine_tuning.repository import NewEvent
from service.fine_tuning.status import JobStatus
from tuning.contract import JobError

AT_ONCE = timedelta()
WHEN_TOLD = timedelta(seconds=30)
"""Something else tells when to look; and where it does not, this is often enough."""


@dataclass
class Change:
    status: JobStatus | None = None
    """None: it stays."""
    columns: dict[str, Any] = field(default_factory=dict)
    events: list[NewEvent] = field(default_factory=list)
    checkpoints: list[CheckpointRow] = field(default_factory=list)
    models: list[ModelRow] = field(default_factory=list)
    files: list[FileRow] = field(default_factory=list)
    due_in: timedelta | None = AT_ONCE
    """When to look again; None: never, the job is done with."""

    @classmethod
    def failed(cls, error: JobError) -> Self:
        """The execution, where there is one, is stopped by the next step."""
        return cls(
            status=JobStatus.FAILED,
            columns={
                "error": error.model_dump(mode="json"),
                "finished_at": time.time(),
                "estimated_finish": None,
                "is_paused": False,
            },
            events=[NewEvent(key="failed", level="error", message=error.message)],
        )

    def then(self, later: "Change") -> "Change":
        """Both at once; where they differ, the later one counts."""
        return Change(
            status=later.status or self.status,
            columns=self.columns | later.columns,
            events=self.events + later.events,
            checkpoints=self.checkpoints + later.checkpoints,
            models=self.models + later.models,
            files=self.files + later.files,
            due_in=later.due_in,
        )
