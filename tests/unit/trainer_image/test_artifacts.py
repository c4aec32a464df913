"""The same promises for a folder and for a real S3 server."""

import errno
import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest

from tests.fixtures.bad_wire import Answer, BadWire, Request, bad_wire, once, with_flipped_body
from tests.fixtures.object_storage import S3Bucket, in_folder, new_bucket
from trainer_image import artifacts
from tuning.adapter_manifest import describe_file


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3Bucket]:
    yield from new_bucket()


@pytest.fixture
def wire(bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[BadWire]:
    """What the trainer's client sends passes it."""
    with bad_wire(bucket.endpoint_url) as wire:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", wire.url)
        artifacts._s3.cache_clear()
        yield wire
    artifacts._s3.cache_clear()


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


def test_of_several_writers_of_one_object_exactly_one_succeeds(prefix: str) -> None:
    contents = [b"writer %d" % number for number in range(8)]
    lost: list[bytes] = []
    start = threading.Barrier(len(contents))

    def write(content: bytes) -> None:
        start.wait()
        try:
            artifacts.create_bytes(f"{prefix}/events/1", content)
        except artifacts.WrittenByAnother:
            lost.append(content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lost) == len(contents) - 1
    assert artifacts.read_bytes(f"{prefix}/events/1") == next(each for each in contents if each not in lost)


def test_creating_the_same_bytes_again_is_no_conflict(prefix: str) -> None:
    artifacts.create_bytes(f"{prefix}/result.json", b"one")
    artifacts.create_bytes(f"{prefix}/result.json", b"one")
    with pytest.raises(artifacts.WrittenByAnother):
        artifacts.create_bytes(f"{prefix}/result.json", b"two")
    assert artifacts.read_bytes(f"{prefix}/result.json") == b"one"


def test_a_file_is_created_whole_and_leaves_no_rest(tmp_path: Path) -> None:
    artifacts.create_bytes((tmp_path / "store" / "one").as_uri(), b"one")
    with pytest.raises(artifacts.WrittenByAnother):
        artifacts.create_bytes((tmp_path / "store" / "one").as_uri(), b"two")
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["one"]


def test_a_created_object_is_ours_although_the_answer_was_lost(wire: BadWire, bucket: S3Bucket) -> None:
    lost: list[Request] = []

    def lose_first(request: Request, answer: Answer) -> Answer:
        if request.method != "PUT" or lost:
            return answer
        lost.append(request)
        return replace(answer, sent_bytes=0)

    wire.spoil_answer = lose_first
    artifacts.create_bytes(f"s3://{bucket.name}/lost-answer", b"content")
    assert len([request for request in wire.requests if request.method == "PUT"]) == 2


def test_a_read_that_breaks_off_goes_on_where_it_was(wire: BadWire, bucket: S3Bucket) -> None:
    content = os.urandom(3 * artifacts.CHUNK_BYTES + 5)
    artifacts.write_bytes(f"s3://{bucket.name}/large", content)
    wire.spoil_answer = lambda request, answer: (
        replace(answer, sent_bytes=artifacts.CHUNK_BYTES + 7)
        if len(answer.body) > artifacts.CHUNK_BYTES + 7
        else answer
    )
    assert b"".join(artifacts.read_chunks(f"s3://{bucket.name}/large")) == content
    assert len([request for request in wire.requests if request.method == "GET"]) > 1


def test_content_that_was_damaged_on_its_way_is_not_stored(wire: BadWire, bucket: S3Bucket, tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.write_bytes(os.urandom(artifacts.CHUNK_BYTES))
    wire.spoil_request = once(lambda request: request.method == "PUT", with_flipped_body)
    with pytest.raises(OSError):
        artifacts.upload_file(source, f"s3://{bucket.name}/weights")
    assert not artifacts.exists(f"s3://{bucket.name}/weights")


def test_a_full_bucket_is_told_as_a_full_disk(wire: BadWire, bucket: S3Bucket, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    body = b"<Error><Code>QuotaExceeded</Code><Message>no more</Message></Error>"
    wire.spoil_answer = lambda request, answer: Answer(403, {"content-length": str(len(body))}, body)
    uri = f"s3://{bucket.name}/one"
    for write in (artifacts.write_bytes, artifacts.create_bytes):
        with pytest.raises(OSError) as failure:
            write(uri, b"content")
        assert failure.value.errno == errno.ENOSPC
    with pytest.raises(OSError) as failure:
        artifacts.upload_file(tmp_path / "file", uri)
    assert failure.value.errno == errno.ENOSPC


def test_buckets_are_addressed_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for endpoint, style, address in (
        (None, None, "https://bucket.s3.amazonaws.com/key"),
        (None, "path", "https://s3.amazonaws.com/bucket/key"),
        ("https://s3.example.com", None, "https://s3.example.com/bucket/key"),
        ("https://s3.example.com", "virtual", "https://bucket.s3.example.com/key"),
    ):
        with monkeypatch.context() as context:
            if endpoint:
                context.setenv("AWS_ENDPOINT_URL_S3", endpoint)
            if style:
                context.setenv("FETTLE_S3_ADDRESSING_STYLE", style)
            artifacts._s3.cache_clear()
            asked = artifacts._s3().generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "key"})
            assert asked.partition("?")[0].replace(".s3.us-east-1.", ".s3.") == address
    artifacts._s3.cache_clear()


def test_an_unknown_addressing_style_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FETTLE_S3_ADDRESSING_STYLE", "vhost")
    artifacts._s3.cache_clear()
    with pytest.raises(ValueError, match="FETTLE_S3_ADDRESSING_STYLE is 'vhost': set it to one of"):
        artifacts._s3()


async def test_what_a_killed_trainer_left_half_written_is_no_object_of_the_service(tmp_path: Path) -> None:
    storage = in_folder(tmp_path).storage
    artifacts.write_bytes(storage.uri("logs/one.log"), b"one")
    (tmp_path / "logs" / ".partial-abc").write_bytes(b"hal")
    assert [found.key async for found in storage.list("logs/")] == ["logs/one.log"]
