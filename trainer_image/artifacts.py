"""Objects by URI: `file:///path` or `s3://bucket/key`. The trainer's only way in and out, and its only user of boto3.

S3 takes its endpoint, region and credentials from the standard AWS_* environment. A missing object raises
FileNotFoundError for both schemes. Writes are atomic: a reader sees the whole object or none.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from tuning.adapter_manifest import AdapterFile

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CHUNK_BYTES = 1 << 20


class WrongContent(ValueError):
    """An object is not the one that its manifest names."""


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
    bucket, key = _bucket_and_key(uri)
    try:
        body = _s3().get_object(Bucket=bucket, Key=key)["Body"]
    except ClientError as error:
        raise _translated(error, uri) from error
    with body:
        yield from body.iter_chunks(CHUNK_BYTES)


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
        _s3().head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        translated = _translated(error, uri)
        if isinstance(translated, FileNotFoundError):
            return False
        raise translated from error
    return True


def write_bytes(uri: str, content: bytes) -> None:
    path = _local_path(uri)
    if path is not None:
        _write_atomically(path, iter([content]))
        return
    bucket, key = _bucket_and_key(uri)
    try:
        _s3().put_object(Bucket=bucket, Key=key, Body=content)
    except ClientError as error:
        raise _translated(error, uri) from error


def upload_file(source: Path, uri: str) -> None:
    path = _local_path(uri)
    if path is not None:
        _write_atomically(path, read_chunks(source.absolute().as_uri()))
        return
    bucket, key = _bucket_and_key(uri)
    try:
        _s3().upload_file(str(source), bucket, key)
    except ClientError as error:
        raise _translated(error, uri) from error


def _write_atomically(path: Path, chunks: Iterator[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".partial-", delete=False) as file:
        try:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            # A temporary file is private to its user; the service and vLLM may run as others.
            os.fchmod(file.fileno(), 0o644)
            Path(file.name).replace(path)
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


@cache
def _s3() -> "S3Client":
    # Path-style addresses work on every S3 server; MinIO and Garage have no wildcard DNS by default.
    config = Config(s3={"addressing_style": "path"}, retries={"mode": "standard", "max_attempts": 5})
    return boto3.client("s3", config=config)


def _translated(error: ClientError, uri: str) -> OSError:
    code = error.response.get("Error", {}).get("Code")
    if code in ("NoSuchKey", "NoSuchBucket", "404"):
        return FileNotFoundError(f"{uri} does not exist")
    return OSError(f"{uri}: {error}")
