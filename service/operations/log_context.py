"""What a log record is about besides its request: the job or batch whose step was under way."""

from contextvars import ContextVar

job_id: ContextVar[str | None] = ContextVar("job_id", default=None)
batch_id: ContextVar[str | None] = ContextVar("batch_id", default=None)
"""Set by a step for its own task, and for what it starts."""
