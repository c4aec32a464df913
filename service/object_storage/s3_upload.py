"""One object on its way into a bucket, as an S3 multipart upload. Blocking: `s3.py` calls it in threads."""

from typing import TYPE_CHECKING, cast

from service.object_storage.streaming import Digests

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

# S3 takes parts of 5 MiB or more and 10,000 of them: 80 GB. Every running upload holds one part in memory.
PART_BYTES = 8 * 1024 * 1024


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
        assert self._id is not None
        sent = self._client.upload_part(
            Bucket=self._bucket, Key=self._key, UploadId=self._id, PartNumber=number, Body=body
        )
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"]})

    def complete(self) -> None:
        if self._id is None:
            self._client.put_object(Bucket=self._bucket, Key=self._key, Body=self._short_object)
            return
        parts = sorted(self._parts, key=lambda part: part["PartNumber"])
        self._client.complete_multipart_upload(
            Bucket=self._bucket, Key=self._key, UploadId=self._id, MultipartUpload={"Parts": parts}
        )

    def abort(self) -> None:
        if self._id is not None:
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._key, UploadId=self._id)
