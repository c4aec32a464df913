"""Objects by URI: `file:///path` or `s3://bucket/key`. The trainer's only way in and out, and its only user of boto3.

S3 takes its endpoint, region and credentials from the standard AWS_* environment. A missing object raises
FileNotFoundError for both schemes, and a storage that fails another OSError. Writes are atomic: a reader sees the
whole object or none.
"""

import errno
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.response import StreamingBody

from tuning.adapter_manifest import AdapterFile
from tuning.s3_environment import s3_client_settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger("trainer")

CHUNK_BYTES = 1 << 20
MAX_ATTEMPTS = 8
"""Of a request, with pauses that grow to 20 s: a server may be away for about a minute."""
SECONDS_AFTER_CONFLICT = 0.2


class WrongContent(ValueError):
    """An object is not the one that its manifest names."""


class WrittenByAnother(Exception):
    """There is such an object already, with other bytes."""


def read_bytes(uri: str) -> bytes:
    return b"".join(read_chunks(uri))


def read_chunks(uri: str) -> Iterator[bytes]:
    """The object's bytes in pieces, so that memory does not grow with it."""
    path = _local_path(uri)
    if path is not None:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
        return
    yield from _read_s3(uri)


def fetch_file(uri: str, target: Path, expected: AdapterFile) -> None:
    """To the local disk, checked; raises WrongContent."""
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as file:
        for chunk in read_chunks(uri):
            size += len(chunk)
            if size > expected.bytes:
                break  # never write more than was promised
            digest.update(chunk)
            file.write(chunk)
    if size != expected.bytes or digest.hexdigest() != expected.sha256:
        raise WrongContent(f"{uri} has another size or hash than its manifest says")


def exists(uri: str) -> bool:
    path = _local_path(uri)
    if path is not None:
        return path.is_file()
    bucket, key = _bucket_and_key(uri)
    try:
        with _translated(uri):
            _s3().head_object(Bucket=bucket, Key=key)
    except FileNotFoundError:
        return False
    return True


def write_bytes(uri: str, content: bytes) -> None:
    path = _local_path(uri)
    if path is not None:
        _write_atomically(path, iter([content]))
        return
    bucket, key = _bucket_and_key(uri)
    with _translated(uri):
        _s3().put_object(Bucket=bucket, Key=key, Body=content)


def create_bytes(uri: str, content: bytes) -> None:
    """Of several writers with different bytes one succeeds, and all others raise WrittenByAnother. Safe to repeat: the
    answer to an earlier write of the same bytes may have been lost."""
    path = _local_path(uri)
    try:
        if path is not None:
            _write_atomically(path, iter([content]), replace=False)
        else:
            _create_s3(uri, content)
    except FileExistsError as error:
        if read_bytes(uri) != content:
            raise WrittenByAnother(f"{uri} was written by somebody else") from error


def upload_file(source: Path, uri: str) -> None:
    path = _local_path(uri)
    if path is not None:
        _write_atomically(path, read_chunks(source.absolute().as_uri()))
        return
    bucket, key = _bucket_and_key(uri)
    with _translated(uri):
        _s3().upload_file(str(source), bucket, key)


def _write_atomically(path: Path, chunks: Iterator[bytes], *, replace: bool = True) -> None:
    """Raises FileExistsError when there is a file that must not be replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".partial-", delete=False) as file:
        try:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            # A temporary file is private to its user; the service and vLLM may run as others.
            os.fchmod(file.fileno(), 0o644)
            if replace:
                Path(file.name).replace(path)
            else:
                path.hardlink_to(file.name)
                Path(file.name).unlink()
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself survives a power cut
    finally:
        os.close(directory)


def _local_path(uri: str) -> Path | None:
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _bucket_and_key(uri: str) -> tuple[str, str]:
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket or not key:
        raise ValueError(f"{uri!r} is neither file:///path nor s3://bucket/key")
    return bucket, key


def _read_s3(uri: str) -> Iterator[bytes]:
    """Goes on where it was when the connection broke off, as long as the object is the same."""
    bucket, key = _bucket_and_key(uri)
    with _translated(uri):
        answer = _s3().get_object(Bucket=bucket, Key=key)
    position, breaks, body = 0, 0, answer["Body"]
    while True:
        try:
            with body:
                for chunk in body.iter_chunks(CHUNK_BYTES):
                    yield chunk
                    position += len(chunk)
            return
        except BotoCoreError as error:
            breaks += 1
            if breaks == MAX_ATTEMPTS:
                raise OSError(f"{uri}: {error}") from error
            log.warning("reading %s broke off at byte %d: %s", uri, position, error)
        body = _body_from(uri, position, answer["ETag"])


def _body_from(uri: str, position: int, etag: str) -> StreamingBody:
    bucket, key = _bucket_and_key(uri)
    with _translated(uri):
        return _s3().get_object(Bucket=bucket, Key=key, Range=f"bytes={position}-", IfMatch=etag)["Body"]


def _create_s3(uri: str, content: bytes) -> None:
    """Raises FileExistsError."""
    bucket, key = _bucket_and_key(uri)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            with _translated(uri):
                _s3().put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
            return
        except BlockingIOError:
            if attempt == MAX_ATTEMPTS:
                raise
            time.sleep(SECONDS_AFTER_CONFLICT)


@cache
def _s3() -> "S3Client":
    return boto3.client("s3", config=Config(**s3_client_settings(max_attempts=MAX_ATTEMPTS)))


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _as_os_error(error, uri) from error
    except (BotoCoreError, Boto3Error) as error:
        # What went wrong in the parts of an upload is the cause of the error that tells it.
        cause = error.__context__
        raise (_as_os_error(cause, uri) if isinstance(cause, ClientError) else OSError(f"{uri}: {error}")) from error


def _as_os_error(error: ClientError, uri: str) -> OSError:
    code = error.response.get("Error", {}).get("Code")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code in ("NoSuchKey", "NoSuchBucket", "404"):
        return FileNotFoundError(f"{uri} does not exist")
    if status == HTTPStatus.PRECONDITION_FAILED:
        return FileExistsError(f"{uri} is there already, or is another one now")
    if status == HTTPStatus.CONFLICT:  # two conditional writes at the same moment: neither is told who won
        return BlockingIOError(f"{uri} is being written by somebody else")
    if code in ("QuotaExceeded", "XMinioStorageFull") or status == HTTPStatus.INSUFFICIENT_STORAGE:
        return OSError(errno.ENOSPC, f"the object storage is full ({code})", uri)
    return OSError(f"{uri}: {error}")
