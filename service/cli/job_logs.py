"""A job's logs: ours, so OpenAI's client has no method for them and is told the paths."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from openai import BaseModel, HttpxBinaryResponseContent

if TYPE_CHECKING:
    from openai import OpenAI


class Log(BaseModel):
    name: str
    attempt: int
    container: str
    bytes: int


class _Logs(BaseModel):
    data: list[Log]


def list_logs(client: "OpenAI", job_id: str) -> list[Log]:
    return client.get(f"/fine_tuning/jobs/{job_id}/logs", cast_to=_Logs).data


def choose_logs(logs: Sequence[Log], attempt: int | None, container: str | None) -> list[Log]:
    """None: of any."""
    return [log for log in logs if attempt in (None, log.attempt) and container in (None, log.container)]


def print_log(client: "OpenAI", job_id: str, log: Log) -> None:
    """Byte by byte as it was printed, with a newline at its end."""
    content = client.get(f"/fine_tuning/jobs/{job_id}/logs/{log.name}", cast_to=HttpxBinaryResponseContent).read()
    sys.stdout.buffer.write(content if content.endswith(b"\n") or not content else content + b"\n")
    sys.stdout.buffer.flush()
