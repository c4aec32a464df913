"""What one step wants changed: plain data, made without a session and applied in one transaction."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from service.database.tables import CheckpointRow, FileRow, ModelRow
from service.fine_tuning.repository import NewEvent
from service.fine_tuning.status import JobStatus

AT_ONCE = timedelta()


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
