"""Pulls an adapter by its hash from `file:///folder` or `s3://bucket/prefix` to local disk, checking every byte.

What lies in the cache is whole, because it is renamed into place, and it is a copy: the engine reads an adapter again
when it had evicted it, and dies if the files have gone (checked against vLLM 0.32), so deleting a model from storage
must take nothing away from a running engine.

S3 takes its endpoint, region and credentials from the standard AWS_* environment. The only user of boto3 in here.
"""

import errno
import hashlib
import json
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tuning.adapter_manifest import ADAPTER_NAME_PATTERN, MANIFEST_NAME, AdapterFile, AdapterManifest
from tuning.s3_environment import s3_client_settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CHUNK_BYTES = 1 << 20
MAX_MANIFEST_BYTES = 64 * 1024
"""Two files and a few numbers are under 1 kB."""


MAX_ATTEMPTS = 5
"""Of a request: somebody waits for the answer of the model."""


class AdapterUnusable(Exception):
    """The adapter is damaged, belongs to another base model, or is no plain LoRA; the message says which."""


def pull_adapter(adapters_uri: str, cache_folder: Path, name: str, base_model: str) -> Path | None:
    """The local folder of the adapter; None when there is none of that name. Safe to run twice at once.

    Raises AdapterUnusable, and OSError when storage cannot be read.
    """
    if not ADAPTER_NAME_PATTERN.fullmatch(name):
        return None
    folder = cache_folder / name
    if folder.is_dir():
        return folder
    uri = f"{adapters_uri.rstrip('/')}/{name}"
    try:
        manifest = _read_manifest(f"{uri}/{MANIFEST_NAME}", name)
    except FileNotFoundError:
        return None
    if manifest.base_model != base_model:
        raise AdapterUnusable(f"adapter {name} belongs to {manifest.base_model}, not to {base_model}")

    cache_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder, prefix=".partial-") as partial:
        for file in manifest.files:
            _fetch(f"{uri}/{file.name}", Path(partial) / file.name, file)
        _check_plain_lora(Path(partial) / "adapter_config.json", name)
        _publish(Path(partial), folder)
    return folder


def _read_manifest(uri: str, name: str) -> AdapterManifest:
    content = b""
    for chunk in _read_chunks(uri):
        content += chunk
        if len(content) > MAX_MANIFEST_BYTES:
            raise AdapterUnusable(f"the manifest of adapter {name} is longer than {MAX_MANIFEST_BYTES} bytes")
    try:
        return AdapterManifest.from_json(content, name)
    except ValueError as error:
        raise AdapterUnusable(str(error)) from error


def _fetch(uri: str, target: Path, expected: AdapterFile) -> None:
    digest, size = hashlib.sha256(), 0
    try:
        with target.open("wb") as file:
            for chunk in _read_chunks(uri):
                size += len(chunk)
                if size > expected.bytes:
                    break  # never write more than was promised
                digest.update(chunk)
                file.write(chunk)
    except FileNotFoundError as error:
        raise AdapterUnusable(f"{uri} is missing") from error
    if size != expected.bytes or digest.hexdigest() != expected.sha256:
        raise AdapterUnusable(f"{uri} is not the file that its manifest names: its size or hash differs")


def _check_plain_lora(path: Path, name: str) -> None:
    """The trainer has checked more than this; an adapter from elsewhere must at least not surprise the engine."""
    try:
        config = json.loads(path.read_bytes())
        is_plain = (
            config["peft_type"] == "LORA"
            and config.get("bias", "none") == "none"
            and not config.get("use_dora")
            and not config.get("modules_to_save")
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise AdapterUnusable(f"the adapter_config.json of adapter {name} cannot be read: {error!r}") from error
    if not is_plain:
        raise AdapterUnusable(f"adapter {name} is not a plain LoRA: it has DoRA, biases or modules_to_save")


def _publish(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return  # another pull of the same content came first
    partial.mkdir()  # TemporaryDirectory removes what it made


def _read_chunks(uri: str) -> Iterator[bytes]:
    """Raises FileNotFoundError when the object does not exist, OSError when storage fails."""
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        yield from _read_s3(parts.netloc, parts.path.lstrip("/"))
        return
    with Path(unquote(parts.path)).open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _read_s3(bucket: str, key: str) -> Iterator[bytes]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        body = _s3().get_object(Bucket=bucket, Key=key)["Body"]
        with body:
            yield from body.iter_chunks(CHUNK_BYTES)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "NoSuchBucket", "404"):
            raise FileNotFoundError(f"s3://{bucket}/{key} does not exist") from error
        raise OSError(f"s3://{bucket}/{key}: {error}") from error
    except BotoCoreError as error:
        raise OSError(f"s3://{bucket}/{key}: {error}") from error


@cache
def _s3() -> "S3Client":
    # Imported here because an engine on the file system has no use for it, and every second of vLLM's start counts.
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(**s3_client_settings(max_attempts=MAX_ATTEMPTS)))
