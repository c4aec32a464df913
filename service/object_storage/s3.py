"""Object storage in a bucket, through one shared boto3 client; credentials come from boto3's standard chain.

A process that is killed in the middle of an upload leaves parts that nobody sees and somebody pays for. `discard`
removes them where the service knows the key; a lifecycle rule with `AbortIncompleteMultipartUpload` gets the others.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

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
    StoredObject,
    check_key,
    check_prefix,
    check_range,
)
from service.object_storage.s3_upload import PART_BYTES, Upload
from service.object_storage.streaming import Digests, Range, in_order, piece_ranges, pieces_of, run_to_end

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

_READ_BYTES = 1024 * 1024
_CONNECTIONS = 16
_PIECES_AT_ONCE = 4  # of a concatenation: so many parts in memory
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
        async with self._upload(key) as upload:
            async for piece in pieces_of(PART_BYTES, chunks):
                await self._in_thread(key, upload.write, piece)
                del piece  # or a second part would be held while the next one fills
            await self._in_thread(key, upload.complete)
        return upload.digests.result()

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

    async def concatenate(self, key: str, sources: Sequence[StoredObject], *, md5: str | None = None) -> PutResult:
        """Read and written again, some pieces at a time. Measured against UploadPartCopy, which not every S3 has: not
        slower, since the digests need every byte anyway, and parts of any size are treated alike."""
        digests = Digests(md5=md5)
        async with self._upload(key) as upload:
            if any(source.bytes for source in sources):
                await self._in_thread(key, upload.start)
            moves = (
                partial(self._in_thread, key, self._move, upload, number, ranges)
                for number, ranges in enumerate(piece_ranges(sources, PART_BYTES), start=1)
            )
            async with aclosing(in_order(moves, _PIECES_AT_ONCE)) as pieces:
                async for piece in pieces:
                    await self._in_thread(key, digests.update, piece)
            result = digests.result()
            await self._in_thread(key, upload.complete)
        return result

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

    async def discard(self, key: str) -> None:
        await self.delete(key)
        try:
            await self._in_thread(key, self._abort_unfinished, self._object_key(key))
        except StorageUnavailable as error:  # some keys may not list uploads, and the object itself is gone
            log.warning("cannot look for unfinished uploads, give the bucket a lifecycle rule instead: %s", error)

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

    @asynccontextmanager
    async def _upload(self, key: str) -> AsyncIterator[Upload]:
        """Aborted when the block fails."""
        upload = Upload(self._client, self._bucket, self._object_key(key))
        try:
            yield upload
        except BaseException:
            try:
                await self._in_thread(key, upload.abort)
            except StorageError as error:  # the first error is the one to raise
                log.warning("the parts of a failed upload are left in the bucket: %s", error)
            raise

    def _move(self, upload: Upload, number: int, ranges: Sequence[Range]) -> bytes:
        piece = b"".join([self._read(each) for each in ranges])
        upload.send(number, piece)
        return piece

    def _read(self, wanted: Range) -> bytes:
        uri = self.uri(wanted.key)
        content = b""
        with suppress(_BeyondEnd), _translated(uri):
            body = _open(self._client, self._bucket, self._object_key(wanted.key), wanted.start, wanted.end - 1)
            with closing(body):
                content = body.read()
        if len(content) != wanted.end - wanted.start:
            raise StorageUnavailable(f"{uri} is shorter than {wanted.end} bytes")
        return content

    def _object_key(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _abort_unfinished(self, object_key: str) -> None:
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=object_key)
        for upload in (each for page in pages for each in page.get("Uploads", ()) if each["Key"] == object_key):
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=object_key, UploadId=upload["UploadId"])

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
