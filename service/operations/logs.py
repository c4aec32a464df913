"""Logs: lines for people, or one JSON object a line for machines; each says which request and which job it is about."""

import logging
from collections.abc import Callable

from service.operations import log_context
from service.response_headers import RequestIds

_LINE = "%(asctime)s %(levelname)s %(name)s [%(request_id)s]: %(message)s"


def configure_logs(log_format: str, trace_id: Callable[[], str | None] | None = None) -> None:
    logs = logging.StreamHandler()
    logs.addFilter(RequestIds())
    if log_format == "json":
        from service.operations.json_lines import JsonLines  # text needs no library

        logs.setFormatter(JsonLines())
        logs.addFilter(_Subject(trace_id))
        logging.captureWarnings(True)
    else:
        logs.setFormatter(logging.Formatter(_LINE))
    logging.basicConfig(level=logging.WARNING, handlers=[logs])
    logging.getLogger("service").setLevel(logging.INFO)


class _Subject(logging.Filter):
    """What a record is about: only fields that have a value."""

    def __init__(self, trace_id: Callable[[], str | None] | None) -> None:
        super().__init__()
        self._trace_id = trace_id

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "request_id", None) == "-":
            del record.__dict__["request_id"]
        for name, value in (
            ("job_id", log_context.job_id.get()),
            ("batch_id", log_context.batch_id.get()),
            ("trace_id", self._trace_id() if self._trace_id else None),
        ):
            if value is not None:
                setattr(record, name, value)
        return True
