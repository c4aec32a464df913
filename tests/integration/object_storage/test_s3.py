"""What only S3 has: buckets, credentials and addresses that can be wrong."""

import pytest

from service.object_storage import open_chunks, open_storage
from service.object_storage.base import ObjectNotFound, StorageUnavailable
from tests.fixtures.object_storage import S3Bucket, in_bucket, stream_of


async def test_uris_name_bucket_prefix_and_key(s3_bucket: S3Bucket) -> None:
    storage = open_storage(f"s3://{s3_bucket.name}/some/prefix/", endpoint_url=s3_bucket.endpoint_url)
    assert storage.uri("files/one") == f"s3://{s3_bucket.name}/some/prefix/files/one"
    storage = open_storage(f"s3://{s3_bucket.name}", endpoint_url=s3_bucket.endpoint_url)
    assert storage.uri("files/one") == f"s3://{s3_bucket.name}/files/one"
    await storage.put("files/one", stream_of(b"1"))
    assert [found.key async for found in storage.list("files/")] == ["files/one"]


async def test_a_bucket_that_does_not_exist_is_named(s3_bucket: S3Bucket) -> None:
    storage = open_storage("s3://fettle-no-such-bucket/prefix", endpoint_url=s3_bucket.endpoint_url)
    with pytest.raises(StorageUnavailable, match="NoSuchBucket"):
        await storage.put_bytes("files/one", b"1")
    with pytest.raises(StorageUnavailable, match="fettle-no-such-bucket/prefix/files/one"):
        await storage.get_bytes("files/one")


async def test_wrong_credentials_are_refused(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    stored = in_bucket(s3_bucket)
    with pytest.raises(StorageUnavailable, match="SignatureDoesNotMatch"):
        await stored.storage.put("files/one", stream_of(b"1"))


async def test_missing_credentials_are_reported_with_the_remedy(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    stored = in_bucket(s3_bucket)
    with pytest.raises(StorageUnavailable, match="set AWS_ACCESS_KEY_ID"):
        await stored.storage.put_bytes("files/one", b"1")


async def test_what_a_dead_process_left_of_a_put_is_discarded(s3_bucket: S3Bucket) -> None:
    stored = in_bucket(s3_bucket)
    for key in ("files/one", "files/one-more"):
        for _ in range(2):
            upload = s3_bucket.resource.Object(f"some/prefix/{key}").initiate_multipart_upload()
            upload.Part(1).upload(Body=b"half a file")
    await stored.storage.discard("files/one")
    assert stored.unfinished() == 2, "its neighbour's uploads stay"
    await stored.storage.discard("files/one-more")
    assert stored.unfinished() == 0


def test_a_missing_object_is_reported_when_it_is_opened(s3_bucket: S3Bucket) -> None:
    with pytest.raises(ObjectNotFound):
        open_chunks(f"s3://{s3_bucket.name}/none", endpoint_url=s3_bucket.endpoint_url)


@pytest.mark.parametrize("uri", ["s3://bucket/../x", "s3://bucket/a//b", "s3://bucket/a b", "s3://bucket/.x"])
def test_an_odd_prefix_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="a prefix has letters"):
        open_storage(uri)
