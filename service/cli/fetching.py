"""Base models of the Hugging Face hub to the local cache (HF_HOME), whole and once, for places without the hub.

What is fetched is what trainer and vLLM read: safetensors, tokenizer, configuration and template. Never a pickle, never
code. Each step is safe to repeat: what is there already is not fetched again, what was begun goes on.
"""

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tuning.catalogue import CatalogueEntry, CatalogueError

WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
UNWANTED = ("*/*", "consolidated*.safetensors", "consolidated*.json")
"""Folders hold the model once more in another format; `consolidated` is the same again beside the shards."""


class FetchFailed(Exception):
    """The model cannot be fetched, or is not whole; the message says why and what to do."""


@dataclass(frozen=True)
class Plan:
    """What is missing of a model."""

    files: int
    missing_bytes: int


def cache_folder() -> Path:
    return Path(constants.HF_HUB_CACHE)


def plan_fetch(entry: CatalogueEntry) -> Plan | None:
    """None: the hub may not be asked (HF_HUB_OFFLINE), what is there must do. Raises FetchFailed."""
    if constants.is_offline_mode():
        return None
    try:
        files = snapshot_download(
            entry.source,
            revision=entry.revision,
            allow_patterns=list(WANTED),
            ignore_patterns=list(UNWANTED),
            dry_run=True,
        )
    except Exception as error:  # the hub's client raises a dozen unrelated types: HTTP, OS, validation
        raise _explained(entry, error) from error
    missing = [file for file in files if file.will_download]
    return Plan(len(missing), sum(file.file_size or 0 for file in missing))


def check_room(plan: Plan) -> None:
    """Raises FetchFailed."""
    free = shutil.disk_usage(_existing_parent(cache_folder())).free
    if plan.missing_bytes > free:
        raise FetchFailed(
            f"{cache_folder()} has room for {in_bytes(free)}, and {in_bytes(plan.missing_bytes)} are missing; "
            "make room, or set HF_HOME to a larger disk"
        )


def fetch(entry: CatalogueEntry) -> None:
    """Raises FetchFailed."""
    try:
        folder = snapshot_download(
            entry.source, revision=entry.revision, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)
        )
    except Exception as error:
        raise _explained(entry, error) from error
    check_whole(entry, Path(folder))


def check_whole(entry: CatalogueEntry, folder: Path) -> None:
    """That everything is there that trainer and vLLM read. Raises FetchFailed."""
    if not folder.is_dir():
        raise FetchFailed(f"the folder {folder} does not exist; correct `source`")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise FetchFailed(f"{entry.source} has no {name}; choose a model that has one")
    if not any(folder.glob("*.safetensors")):
        raise FetchFailed(f"{entry.source} has no *.safetensors; pickles are never loaded, choose another model")
    try:
        _ = entry.template
    except CatalogueError as error:
        raise FetchFailed(str(error)) from error


def in_bytes(count: int) -> str:
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _explained(entry: CatalogueEntry, error: Exception) -> FetchFailed:
    cause = error.__cause__ if isinstance(error, DryRunError | LocalEntryNotFoundError) and error.__cause__ else error
    at = f"{entry.source} at revision {entry.revision or 'main'}"
    page = f"{constants.ENDPOINT}/{entry.source}"
    if isinstance(cause, GatedRepoError):
        reason = f"{page} is gated: accept its licence there, and set HF_TOKEN to a token of that account"
    elif isinstance(cause, RevisionNotFoundError):
        reason = f"{entry.source} has no revision {entry.revision!r}; correct `revision`"
    elif isinstance(cause, RepositoryNotFoundError):
        reason = f"{page} does not exist, or is private and HF_TOKEN is not set to a token that may read it"
    elif isinstance(cause, HfHubHTTPError):
        reason = f"the hub answers {cause.response.status_code} for {at}; try again later"
    elif isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = f"the disk of {cache_folder()} is full; make room, or set HF_HOME to a larger one, and run this again"
    elif isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason = f"{cache_folder()} cannot be written to ({cause.strerror}); set HF_HOME to a folder that can"
    elif constants.is_offline_mode():
        reason = f"{at} is not whole in {cache_folder()}, and HF_HUB_OFFLINE forbids to fetch it; unset that"
    else:
        reason = f"{at} cannot be fetched: {cause}"
    return FetchFailed(reason)


def _existing_parent(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
