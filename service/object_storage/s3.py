"""Object storage in a bucket, through one shared boto3 client; credentials come from boto3's standard chain.

A service that is killed in the middle of an upload leaves parts that nobody sees and somebody pays for: give the
bucket a lifecycle rule with `AbortIncompleteMultipartUpload`.
"""

import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar, cast

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.response import StreamingBody

from service.object_storage.base import (
    ObjectNotFound,
    PutResult,
    StorageError,
    StorageFull,
    StorageUnavailable,
    check_key,
    check_prefix,
    check_range,
)
from service.object_storage.streaming import pieces_of, run_to_end

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

# S3 takes parts of 5 MiB or more and 10,000 of them: 80 GB. Every running upload holds one part in memory.
_PART_BYTES = 8 * 1024 * 1024
_READ_BYTES = 1024 * 1024
_CONNECTIONS = 16
_DELETE_BATCH = 1000  # the most that one DeleteObjects takes

_MISSING_CODES = {"NoSuchKey", "404"}  # HEAD has no body, so its only code is the status
_FULL_CODES = {"QuotaExceeded", "XMinioStorageFull"}


class S3Storage:
    def __init__(self, bucket: str, prefix: str, *, endpoint_url: str | None, region: str | None) -> None:
        """`prefix` is empty or ends with a slash. Nothing is sent before the first call."""
        self._bucket = bucket
        self._prefix = prefix
        self._client = _new_client(endpoint_url, region)
        self._threads = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="s3")

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> PutResult:
        upload = _Upload(self._client, self._bucket, self._object_key(key))
        try:
            async for piece in pieces_of(_PART_BYTES, chunks):
                await self._in_thread(key, upload.write, piece)
                del piece  # or a second part would be held while the next one fills
            await self._in_thread(key, upload.complete)
        except BaseException:
            try:
                await self._in_thread(key, upload.abort)
            except StorageError as error:  # the first error is the one to raise
                log.warning("the parts of a failed upload are left in the bucket: %s", error)
            raise
        return PutResult(upload.bytes, upload.sha256.hexdigest())

    async def put_bytes(self, key: str, content: bytes, *, if_absent: bool = False) -> bool:
        target = self._object_key(key)

        def write() -> None:
            if if_absent:
                self._client.put_object(Bucket=self._bucket, Key=target, Body=content, IfNoneMatch="*")
            else:
                self._client.put_object(Bucket=self._bucket, Key=target, Body=content)

        try:
            await self._in_thread(key, write)
        except _ObjectExists:
            return False
        return True

    async def get(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        check_range(start, end)
        if start == end:  # HTTP has no empty ranges
            if await self.head(key) is None:
                raise ObjectNotFound(f"there is no object {self.uri(key)}")
            return
        last = "" if end is None else end - 1
        try:
            body = await self._in_thread(key, _open, self._client, self._bucket, self._object_key(key), start, last)
        except _BeyondEnd:
            return
        with closing(body):
            while piece := await self._in_thread(key, body.read, _READ_BYTES):
                yield piece

    async def get_bytes(self, key: str) -> bytes:
        return b"".join([piece async for piece in self.get(key)])

    async def head(self, key: str) -> int | None:
        target = self._object_key(key)
        try:
            found = await self._in_thread(key, lambda: self._client.head_object(Bucket=self._bucket, Key=target))
        except ObjectNotFound:
            return None
        return found["ContentLength"]

    async def list(self, prefix: str) -> AsyncIterator[str]:
        folder = self._prefix + check_prefix(prefix)
        pages = iter(self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=folder))
        while page := await self._in_thread(prefix, next, pages, None):
            for found in page.get("Contents", ()):
                yield found["Key"].removeprefix(self._prefix)

    async def delete(self, key: str) -> None:
        target = self._object_key(key)
        await self._in_thread(key, lambda: self._client.delete_object(Bucket=self._bucket, Key=target))

    async def delete_prefix(self, prefix: str) -> None:
        batch: list[str] = []
        async for key in self.list(prefix):
            batch.append(self._object_key(key))
            if len(batch) == _DELETE_BATCH:
                await self._in_thread(prefix, self._delete_batch, batch)
                batch = []
        if batch:
            await self._in_thread(prefix, self._delete_batch, batch)

    def uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._object_key(key)}"

    def _object_key(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _delete_batch(self, keys: Sequence[str]) -> None:
        """DeleteObjects answers 200 also when it could not delete some of them."""
        answer = self._client.delete_objects(
            Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
        )
        for error in answer.get("Errors", ()):
            raise StorageUnavailable(f"S3 did not delete {error.get('Key')}: {error.get('Message', error.get('Code'))}")

    async def _in_thread(self, what: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with _translated(f"s3://{self._bucket}/{self._prefix}{what}"):
            return await run_to_end(self._threads, function, *args, **kwargs)


def read_chunks(bucket: str, key: str, *, endpoint_url: str | None, region: str | None) -> Iterator[bytes]:
    uri = f"s3://{bucket}/{key}"
    with _translated(uri):
        body = _open(_new_client(endpoint_url, region), bucket, key)
    return _chunks(body, uri)


def _chunks(body: StreamingBody, uri: str) -> Iterator[bytes]:
    with closing(body), _translated(uri):
        while piece := body.read(_READ_BYTES):
            yield piece


class _Upload:
    """One object on its way in; blocking. What fits into one part is sent by a plain PutObject."""

    def __init__(self, client: "S3Client", bucket: str, key: str) -> None:
        self._client = client
        self._bucket = bucket
        self._key = key
        self._id: str | None = None
        self._parts: list[CompletedPartTypeDef] = []
        self._short_object = b""
        self.bytes = 0
        self.sha256 = hashlib.sha256()

    def write(self, piece: bytearray) -> None:
        """Only the last piece may be shorter than a part."""
        self.sha256.update(piece)
        self.bytes += len(piece)
        body = cast(bytes, piece)  # boto3 sends a bytearray as well, without a copy; only its types do not know
        if self.bytes < _PART_BYTES:
            self._short_object = body
            return
        if self._id is None:
            self._id = self._client.create_multipart_upload(Bucket=self._bucket, Key=self._key)["UploadId"]
        number = len(self._parts) + 1
        sent = self._client.upload_part(
            Bucket=self._bucket, Key=self._key, UploadId=self._id, PartNumber=number, Body=body
        )
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"]})

    def complete(self) -> None:
        if self._id is None:
            self._client.put_object(Bucket=self._bucket, Key=self._key, Body=self._short_object)
        else:
            self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=self._key, UploadId=self._id, MultipartUpload={"Parts": self._parts}
            )

    def abort(self) -> None:
        if self._id is not None:
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._key, UploadId=self._id)


def _new_client(endpoint_url: str | None, region: str | None) -> "S3Client":
    """Servers other than Amazon's often know neither bucket host names nor the newer checksums."""
    own_server = endpoint_url is not None
    checksums: Literal["when_required", "when_supported"] = "when_required" if own_server else "when_supported"
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "adaptive", "total_max_attempts": 5},
        max_pool_connections=_CONNECTIONS,
        s3={"addressing_style": "path" if own_server else "auto"},
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
    )
    return Session().client("s3", endpoint_url=endpoint_url, region_name=region, config=config)


def _open(client: "S3Client", bucket: str, key: str, start: int = 0, last: int | str = "") -> StreamingBody:
    if start == 0 and last == "":  # an empty object has no satisfiable range, but it can be read
        return client.get_object(Bucket=bucket, Key=key)["Body"]
    return client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{last}")["Body"]


class _ObjectExists(StorageError):
    pass


class _BeyondEnd(StorageError):
    pass


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _describe(error, uri) from error
    except NoCredentialsError as error:
        raise StorageUnavailable(
            f"no credentials for {uri}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the service a role"
        ) from error
    except BotoCoreError as error:
        raise StorageUnavailable(f"{uri}: {error}") from error


def _describe(error: ClientError, uri: str) -> StorageError:
    code = error.response["Error"].get("Code", "")
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    if code in _MISSING_CODES:
        return ObjectNotFound(f"there is no object {uri}")
    if code in _FULL_CODES or status == HTTPStatus.INSUFFICIENT_STORAGE:
        return StorageFull(f"storage is full: {uri} could not be written ({error})")
    if status == HTTPStatus.PRECONDITION_FAILED:
        return _ObjectExists(f"{uri} is there already")
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return _BeyondEnd(f"{uri} is shorter than the range asked for")
    return StorageUnavailable(f"{uri}: {error}")
