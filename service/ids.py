"""Ids as OpenAI writes them, and the patterns that every id from outside is matched against before it is used."""

import hashlib
import re
import secrets
import string
from typing import Literal

_ALPHABET = string.ascii_letters + string.digits

FILE_ID_PATTERN = re.compile(r"file-[A-Za-z0-9]{22,24}")
UPLOAD_ID_PATTERN = re.compile(r"upload_[0-9a-f]{32}")
BATCH_ID_PATTERN = re.compile(r"batch_[0-9a-f]{32}")
JOB_ID_PATTERN = re.compile(r"ftjob-[A-Za-z0-9]{24}")
WEBHOOK_ENDPOINT_ID_PATTERN = re.compile(r"whe_[A-Za-z0-9]{24}")
MODEL_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]{0,255}")
CURSOR_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Any id of ours; which table it is of, the query finds out."""


def new_file_id() -> str:
    return f"file-{_random(22)}"


def new_upload_id() -> str:
    return f"upload_{secrets.token_hex(16)}"


def new_upload_part_id() -> str:
    return f"part_{secrets.token_hex(16)}"


def new_batch_id() -> str:
    return f"batch_{secrets.token_hex(16)}"


def new_job_id() -> str:
    return f"ftjob-{_random(24)}"


def new_event_id() -> str:
    return f"ftevent-{_random(24)}"


def new_checkpoint_id() -> str:
    return f"ftckpt_{_random(24)}"


def new_organization_id() -> str:
    return f"org-{_random(24)}"


def new_project_id() -> str:
    return f"proj_{_random(24)}"


def new_key_id() -> str:
    return f"key_{_random(24)}"


def new_key() -> str:
    """48 characters of 62: 285 bits that nobody guesses."""
    return f"sk-fettle-{_random(48)}"


def new_permission_id() -> str:
    return f"cp_{_random(24)}"


def new_request_id() -> str:
    return f"req_{secrets.token_hex(16)}"


def new_webhook_endpoint_id() -> str:
    return f"whe_{_random(24)}"


def new_webhook_delivery_id() -> str:
    return f"whd_{_random(24)}"


def new_webhook_event_id() -> str:
    return f"evt_{secrets.token_hex(16)}"


def webhook_event_id(event_type: str, object_id: str) -> str:
    """Made from what happened, which happens once."""
    return f"evt_{hashlib.sha256(f'{event_type} of {object_id}'.encode()).hexdigest()[:32]}"


def result_file_id(job_id: str) -> str:
    """Made from the job, so that a repeated step writes the same file and not a second one."""
    return f"file-{hashlib.sha256(f'result file of {job_id}'.encode()).hexdigest()[:22]}"


def batch_file_id(batch_id: str, kind: Literal["output", "error"]) -> str:
    """Made from the batch, so that a repeated step writes the same file and not a second one."""
    return f"file-{hashlib.sha256(f'{kind} file of {batch_id}'.encode()).hexdigest()[:22]}"


def batch_request_id(batch_id: str, index: int) -> str:
    """Of the request that stands at `index` (from 0) in the input file."""
    return f"batch_req_{hashlib.sha256(f'request {index} of {batch_id}'.encode()).hexdigest()[:32]}"


def wandb_run_id(job_id: str, number: int) -> str:
    """Of the job's integration `number` (from 0), the same for every attempt."""
    return hashlib.sha256(f"wandb run {number} of {job_id}".encode()).hexdigest()[:16]


def fine_tuned_model_name(base: str, organization: str, suffix: str | None, job_id: str) -> str:
    """`ft:{base}:{organization}:{suffix or nothing}:{8 characters}`, the same for one job every time."""
    return f"ft:{base}:{organization}:{suffix or ''}:{job_id[-8:]}"


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
