"""Object storage in a bucket, through one shared boto3 client; credentials come from boto3's standard chain.

A process that is killed in the middle of an upload leaves parts that nobody sees and somebody pays for. `discard`
removes them where the service knows the key; a lifecycle rule with `AbortIncompleteMultipartUpload` gets the others.
"""

import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, closing, suppress
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from botocore.response import StreamingBody

from service.object_storage.base import (
    ObjectNotFound,
    PutResult,
    S3Access,
    StorageError,
    StorageUnavailable,
    StoredObject,
    check_key,
    check_prefix,
    check_range,
)
from service.object_storage.s3_client import CONNECTIONS, BeyondEnd, new_client, translated
from service.object_storage.s3_upload import PART_BYTES, Upload, md5_of, put_if_absent, put_whole
from service.object_storage.streaming import Digests, Range, in_order, piece_ranges, pieces_of, run_to_end

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

_READ_BYTES = 1024 * 1024
_PIECES_AT_ONCE = 4  # of a concatenation: so many parts in memory
_DELETE_BATCH = 1000  # the most that one DeleteObjects takes


class S3Storage:
    def __init__(self, bucket: str, prefix: str, access: S3Access) -> None:
        """`prefix` is empty or ends with a slash. Nothing is sent before the first call."""
        self._bucket = bucket
        self._prefix = prefix
        self._client = new_client(access)
        self._has_conditional_puts = False
        """Known once the server has refused one."""
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="s3")

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> PutResult:
        async with self._upload(key) as upload:
            async for piece in pieces_of(PART_BYTES, chunks):
                await self._in_thread(key, upload.write, piece)
                del piece  # or a second part would be held while the next one fills
            await self._in_thread(key, upload.complete)
        return upload.digests.result()

    async def put_bytes(self, key: str, content: bytes, *, if_absent: bool = False) -> bool:
        target = self._object_key(key)

        if if_absent:
            return await self._in_thread(key, self._put_if_absent, target, content)
        await self._in_thread(key, put_whole, self._client, self._bucket, target, content)
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
            found = await self._in_thread(key, _open, self._client, self._bucket, self._object_key(key), start, last)
        except BeyondEnd:
            return
        with closing(found):
            while piece := await self._in_thread(key, found.read):
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

    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        folder = self._prefix + check_prefix(prefix)
        pages = iter(self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=folder))
        while page := await self._in_thread(prefix, next, pages, None):
            for found in page.get("Contents", ()):
                yield StoredObject(found["Key"].removeprefix(self._prefix), found["Size"])

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
        async for found in self.list(prefix):
            batch.append(self._object_key(found.key))
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
        with suppress(BeyondEnd), translated(uri):
            key = self._object_key(wanted.key)
            with closing(_open(self._client, self._bucket, key, wanted.start, wanted.end - 1)) as found:
                content = b"".join(iter(found.read, b""))
        if len(content) != wanted.end - wanted.start:
            raise StorageUnavailable(f"{uri} is shorter than {wanted.end} bytes")
        return content

    def _put_if_absent(self, target: str, content: bytes) -> bool:
        is_written = put_if_absent(self._client, self._bucket, target, content)
        # Some servers ignore the condition in silence. The first time, what was just written is put again.
        if is_written and not self._has_conditional_puts and put_if_absent(self._client, self._bucket, target, content):
            raise StorageUnavailable(
                f"s3://{self._bucket}: this server ignores `If-None-Match: *`, so two writers may both believe that "
                "they are the only one. It needs a newer version; `fettle storage check` tells whether one knows it"
            )
        self._has_conditional_puts = True
        return is_written

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
        with translated(f"s3://{self._bucket}/{self._prefix}{what}"):
            return await run_to_end(self._threads, function, *args, **kwargs)


def read_chunks(bucket: str, key: str, access: S3Access) -> Iterator[bytes]:
    uri = f"s3://{bucket}/{key}"
    with translated(uri):
        found = _open(new_client(access), bucket, key)
    return _chunks(found, uri)


def _chunks(found: "_Reading", uri: str) -> Iterator[bytes]:
    with closing(found), translated(uri):
        while piece := found.read():
            yield piece


def _open(client: "S3Client", bucket: str, key: str, start: int = 0, last: int | str = "") -> "_Reading":
    uri = f"s3://{bucket}/{key}"
    if start == 0 and last == "":  # an empty object has no satisfiable range, but it can be read
        found = client.get_object(Bucket=bucket, Key=key)
        return _Reading(found["Body"], uri, md5_of(found))
    return _Reading(client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{last}")["Body"], uri, None)


class _Reading:
    """An object, or a part of it, as it comes. One cut short is boto3's to find; a changed one is found where there is
    something to compare with."""

    def __init__(self, body: StreamingBody, uri: str, md5: str | None) -> None:
        self._body = body
        self._uri = uri
        self._expected = md5
        self._md5 = hashlib.md5(usedforsecurity=False)

    def read(self) -> bytes:
        """The next bytes; none at the end. Raises StorageUnavailable there when they were not those that are stored."""
        piece: bytes = self._body.read(_READ_BYTES)
        if self._expected is None:
            return piece
        self._md5.update(piece)
        if not piece and self._md5.hexdigest() != self._expected:
            raise StorageUnavailable(f"{self._uri} arrived with other content than is stored: its MD5 is another one")
        return piece

    def close(self) -> None:
        self._body.close()
