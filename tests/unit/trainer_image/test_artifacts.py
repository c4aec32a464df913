"""The same promises for a folder and for a real S3 server."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from trainer_image import artifacts
from tuning.adapter_manifest import describe_file


@pytest.fixture(params=["file", "s3"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "file":
        yield (tmp_path / "with space").as_uri()
        return
    endpoint = os.environ.get("FETTLE_TEST_S3_ENDPOINT")
    if not endpoint:
        if os.environ.get("CI") == "true":
            pytest.fail("FETTLE_TEST_S3_ENDPOINT is not set in CI")
        pytest.skip("no S3 server: set FETTLE_TEST_S3_ENDPOINT")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_REGION", os.environ.get("AWS_REGION", "us-east-1"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", os.environ["AWS_REGION"])
    bucket = f"fettle-{uuid.uuid4().hex}"
    client = boto3.client("s3")
    client.create_bucket(Bucket=bucket)
    artifacts._s3.cache_clear()
    yield f"s3://{bucket}/with space"
    for item in client.list_objects_v2(Bucket=bucket).get("Contents", []):
        client.delete_object(Bucket=bucket, Key=item["Key"])
    client.delete_bucket(Bucket=bucket)


def test_bytes_come_back_as_written_and_are_replaced(prefix: str) -> None:
    artifacts.write_bytes(f"{prefix}/a/b.json", b"one")
    artifacts.write_bytes(f"{prefix}/a/b.json", b"two")
    assert artifacts.read_bytes(f"{prefix}/a/b.json") == b"two"


def test_files_stream_in_pieces(prefix: str, tmp_path: Path) -> None:
    content = os.urandom(artifacts.CHUNK_BYTES * 2 + 5)
    (tmp_path / "source").write_bytes(content)
    artifacts.upload_file(tmp_path / "source", f"{prefix}/large")
    chunks = list(artifacts.read_chunks(f"{prefix}/large"))
    assert b"".join(chunks) == content
    assert max(map(len, chunks)) <= artifacts.CHUNK_BYTES


def test_a_file_is_fetched_only_when_it_is_the_expected_one(prefix: str, tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.write_bytes(os.urandom(artifacts.CHUNK_BYTES + 5))
    expected = describe_file(source)
    artifacts.upload_file(source, f"{prefix}/weights")
    artifacts.fetch_file(f"{prefix}/weights", tmp_path / "fetched", expected)
    assert (tmp_path / "fetched").read_bytes() == source.read_bytes()
    content = source.read_bytes()
    for other in (content[:-1], content + b"1", bytes([content[0] ^ 1]) + content[1:], content * 3):
        artifacts.write_bytes(f"{prefix}/weights", other)
        with pytest.raises(artifacts.WrongContent):
            artifacts.fetch_file(f"{prefix}/weights", tmp_path / "again", expected)
    assert (tmp_path / "again").stat().st_size <= expected.bytes, "more was written than was promised"


def test_missing_objects_are_told_apart(prefix: str) -> None:
    assert not artifacts.exists(f"{prefix}/none")
    with pytest.raises(FileNotFoundError):
        artifacts.read_bytes(f"{prefix}/none")
    artifacts.write_bytes(f"{prefix}/one", b"")
    assert artifacts.exists(f"{prefix}/one")


def test_a_failed_write_leaves_the_old_object_and_no_rest(tmp_path: Path) -> None:
    target = tmp_path / "store" / "object"
    artifacts.write_bytes(target.as_uri(), b"old")
    with pytest.raises(FileNotFoundError):
        artifacts.upload_file(tmp_path / "missing", target.as_uri())
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["object"]


def test_other_schemes_are_refused() -> None:
    with pytest.raises(ValueError, match="neither file"):
        artifacts.read_bytes("http://host/object")
