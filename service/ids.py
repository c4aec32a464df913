"""Ids as OpenAI writes them, and the patterns that every id from outside is matched against before it is used."""

import hashlib
import re
import secrets
import string

_ALPHABET = string.ascii_letters + string.digits

FILE_ID_PATTERN = re.compile(r"file-[A-Za-z0-9]{22,24}")
JOB_ID_PATTERN = re.compile(r"ftjob-[A-Za-z0-9]{24}")
MODEL_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]{0,255}")
CURSOR_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Any id of ours; which table it is of, the query finds out."""


def new_file_id() -> str:
    return f"file-{_random(22)}"


def new_job_id() -> str:
    return f"ftjob-{_random(24)}"


def new_event_id() -> str:
    return f"ftevent-{_random(24)}"


def new_checkpoint_id() -> str:
    return f"ftckpt_{_random(24)}"


def new_request_id() -> str:
    return f"req_{secrets.token_hex(16)}"


def result_file_id(job_id: str) -> str:
    """Made from the job, so that a repeated step writes the same file and not a second one."""
    return f"file-{hashlib.sha256(f'result file of {job_id}'.encode()).hexdigest()[:22]}"


def fine_tuned_model_name(base: str, organization: str, suffix: str | None, job_id: str) -> str:
    """`ft:{base}:{organization}:{suffix or nothing}:{8 characters}`, the same for one job every time."""
    return f"ft:{base}:{organization}:{suffix or ''}:{job_id[-8:]}"


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
