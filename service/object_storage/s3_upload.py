"""One object on its way into a bucket, and the proof that it arrived as it was sent. Blocking: `s3.py` calls it in
threads.

Amazon gets boto3's checksums. Other servers often do not know them; they get each part's MD5, which all of them check,
and the ETag that they answer must be the same.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import closing
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypedDict, cast

from botocore.exceptions import ClientError

from service.object_storage.base import StorageUnavailable
from service.object_storage.streaming import Digests

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

# S3 takes parts of 5 MiB or more and 10,000 of them: 80 GB. Every running upload holds one part in memory.
PART_BYTES = 8 * 1024 * 1024

_SENDS = 3
"""Of what was damaged on its way: a bad line of memory in a proxy does it again."""
_DAMAGED_CODES = {"BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"}
_MD5_ETAG = re.compile(r'"?([0-9a-f]{32})"?')


class Upload:
    """What fits into one part is sent by a plain PutObject, unless `start` was called."""

    def __init__(self, client: "S3Client", bucket: str, key: str) -> None:
        self._client = client
        self._bucket = bucket
        self._key = key
        self._id: str | None = None
        self._parts: list[CompletedPartTypeDef] = []
        self._short_object = b""
        self.digests = Digests()

    def write(self, piece: bytearray) -> None:
        """One after the other; only the last piece may be shorter than a part."""
        self.digests.update(piece)
        body = cast(bytes, piece)  # boto3 sends a bytearray as well, without a copy; only its types do not know
        if self.digests.bytes < PART_BYTES:
            self._short_object = body
            return
        if self._id is None:
            self.start()
        self.send(len(self._parts) + 1, body)

    def start(self) -> None:
        self._id = self._client.create_multipart_upload(Bucket=self._bucket, Key=self._key)["UploadId"]

    def send(self, number: int, body: bytes) -> None:
        """A part of a started upload; several may be sent at once, in any order."""
        upload_id = self._id
        assert upload_id is not None

        def send_part(checksum: _Checksum) -> Mapping[str, Any]:
            return self._client.upload_part(
                Bucket=self._bucket, Key=self._key, UploadId=upload_id, PartNumber=number, Body=body, **checksum
            )

        sent = _send_intact(self._client, send_part, body, f"part {number} of s3://{self._bucket}/{self._key}")
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"]})

    def complete(self) -> None:
        if self._id is None:
            put_whole(self._client, self._bucket, self._key, self._short_object)
            return
        parts = sorted(self._parts, key=lambda part: part["PartNumber"])
        self._client.complete_multipart_upload(
            Bucket=self._bucket, Key=self._key, UploadId=self._id, MultipartUpload={"Parts": parts}
        )

    def abort(self) -> None:
        if self._id is not None:
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._key, UploadId=self._id)


def put_whole(client: "S3Client", bucket: str, key: str, content: bytes) -> None:
    def send(checksum: _Checksum) -> Mapping[str, Any]:
        return client.put_object(Bucket=bucket, Key=key, Body=content, **checksum)

    _send_intact(client, send, content, f"s3://{bucket}/{key}")


def put_if_absent(client: "S3Client", bucket: str, key: str, content: bytes) -> bool:
    """Whether it was written by this call."""

    def send(checksum: _Checksum) -> Mapping[str, Any]:
        return client.put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*", **checksum)

    for _ in range(_SENDS):
        try:
            _send_intact(client, send, content, f"s3://{bucket}/{key}")
        except ClientError as error:
            answer = error.response["ResponseMetadata"]
            if answer["HTTPStatusCode"] == HTTPStatus.CONFLICT:
                continue  # Amazon's word for a race that nobody has won yet
            if answer["HTTPStatusCode"] != HTTPStatus.PRECONDITION_FAILED:
                raise
            if answer.get("RetryAttempts", 0) == 0:
                return False
            # boto3 has sent it again because nobody answered: the first one may have been stored nevertheless
            with closing(client.get_object(Bucket=bucket, Key=key)["Body"]) as body:
                return body.read(len(content) + 1) == content
        return True
    raise StorageUnavailable(f"s3://{bucket}/{key}: others are writing the same object")


class _Checksum(TypedDict, total=False):
    ContentMD5: str


_Send = Callable[[_Checksum], Mapping[str, Any]]


def _send_intact(client: "S3Client", send: _Send, body: bytes, what: str) -> Mapping[str, Any]:
    """Sends what was damaged on its way again. Raises StorageUnavailable when the server keeps something else."""
    config: Any = client.meta.config  # its types do not know all of it
    md5 = hashlib.md5(body, usedforsecurity=False)
    checksum: _Checksum = {}
    if config.request_checksum_calculation == "when_required":
        checksum["ContentMD5"] = b64encode(md5.digest()).decode()
    for sends_left in reversed(range(_SENDS)):
        try:
            answer = send(checksum)
        except ClientError as error:
            if error.response["Error"].get("Code") not in _DAMAGED_CODES or not sends_left:
                raise
            continue
        if (etag := md5_of(answer)) is None or etag == md5.hexdigest():
            return answer
    raise StorageUnavailable(f"{what} was stored with other content than was sent: its ETag is not the MD5")


def md5_of(answer: Mapping[str, Any]) -> str | None:
    """The MD5 of an object or a part, by its ETag; None where an ETag is something else: of what was encrypted by the
    server, or put together from parts."""
    if answer.get("ServerSideEncryption") or answer.get("SSECustomerAlgorithm"):
        return None
    found = _MD5_ETAG.fullmatch(answer.get("ETag", ""))
    return found and found[1]
