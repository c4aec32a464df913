"""What is damaged between us and a real S3 server is found: sent again where that helps, never taken for whole."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from service.object_storage import open_storage
from service.object_storage.base import ObjectStorage, StorageUnavailable
from tests.fixtures.bad_wire import (
    Answer,
    BadWire,
    Request,
    bad_wire,
    cut_in_the_middle,
    flipped,
    once,
    with_flipped_body,
)
from tests.fixtures.object_storage import MIB, S3Bucket, StorageUnderTest, stream_of

SIZE = 20 * MIB + 123  # two whole parts and a shorter one


@pytest.fixture
def wire(s3_bucket: S3Bucket) -> Iterator[BadWire]:
    with bad_wire(s3_bucket.endpoint_url) as wire:
        yield wire
    s3_bucket.resource.objects.all().delete()


@pytest.fixture
def behind(wire: BadWire, s3_bucket: S3Bucket) -> ObjectStorage:
    return open_storage(f"s3://{s3_bucket.name}/some/prefix", endpoint_url=wire.url, region="us-east-1")


def is_part(number: int) -> Callable[[Request], bool]:
    return lambda request: request.method == "PUT" and f"partNumber={number}" in request.path


def is_put(request: Request) -> bool:
    return request.method == "PUT"


@pytest.mark.parametrize("spoil", [with_flipped_body, cut_in_the_middle])
@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_part_that_was_damaged_once_is_sent_again(
    wire: BadWire,
    behind: ObjectStorage,
    s3_storage: StorageUnderTest,
    spoil: Callable[[Request], Request],
    number: int,
) -> None:
    wire.spoil_request = once(is_part(number), spoil)
    content = os.urandom(SIZE)
    await behind.put("files/one", stream_of(content))
    assert await s3_storage.storage.get_bytes("files/one") == content
    assert len([each for each in wire.requests if is_part(number)(each)]) == 2


@pytest.mark.parametrize("size", [1, SIZE])
async def test_what_is_always_damaged_is_not_stored(
    wire: BadWire, behind: ObjectStorage, s3_storage: StorageUnderTest, size: int
) -> None:
    wire.spoil_request = lambda request: with_flipped_body(request) if request.body and is_put(request) else request
    with pytest.raises(StorageUnavailable, match=r"BadDigest|XAmzContentSHA256Mismatch"):
        await behind.put("files/one", stream_of(os.urandom(size)))
    assert await s3_storage.storage.head("files/one") is None
    assert s3_storage.unfinished() == 0


@pytest.mark.parametrize("size", [1, SIZE])
async def test_a_server_that_keeps_other_bytes_is_found_by_its_etag(
    wire: BadWire, behind: ObjectStorage, s3_storage: StorageUnderTest, size: int
) -> None:
    def another_etag(request: Request, answer: Answer) -> Answer:
        is_stored = request.method == "PUT" and answer.status == 200
        return replace(answer, headers=answer.headers | {"ETag": f'"{"0" * 32}"'}) if is_stored else answer

    wire.spoil_answer = another_etag
    with pytest.raises(StorageUnavailable, match="stored with other content than was sent"):
        await behind.put("files/one", stream_of(os.urandom(size)))
    assert s3_storage.unfinished() == 0


async def test_a_short_object_that_is_damaged_on_its_way_back_is_found(wire: BadWire, behind: ObjectStorage) -> None:
    await behind.put_bytes("jobs/1/result.json", b"x" * 1000)
    wire.spoil_answer = lambda _, answer: replace(answer, body=flipped(answer.body))
    with pytest.raises(StorageUnavailable, match="arrived with other content"):
        await behind.get_bytes("jobs/1/result.json")


async def test_an_object_that_is_cut_short_on_its_way_back_is_found(wire: BadWire, behind: ObjectStorage) -> None:
    await behind.put("files/one", stream_of(os.urandom(SIZE)))
    wire.spoil_answer = lambda _, answer: replace(answer, sent_bytes=len(answer.body) // 2)
    with pytest.raises(StorageUnavailable):
        await behind.get_bytes("files/one")
    with pytest.raises(StorageUnavailable):
        [piece async for piece in behind.get("files/one", 0, 1000)]


async def test_a_conditional_put_whose_answer_was_lost_is_known_to_be_ones_own(
    wire: BadWire, behind: ObjectStorage
) -> None:
    lost: list[Request] = []

    def lose_first(request: Request, answer: Answer) -> Answer:
        if lost or not is_put(request):
            return answer
        lost.append(request)
        return replace(answer, sent_bytes=0)

    wire.spoil_answer = lose_first
    assert await behind.put_bytes("jobs/1/part", b"mine", if_absent=True)
    lost.clear()
    assert not await behind.put_bytes("jobs/1/part", b"another's", if_absent=True)
    assert await behind.get_bytes("jobs/1/part") == b"mine"


async def test_a_server_that_ignores_conditions_is_found_at_the_first_one(wire: BadWire, behind: ObjectStorage) -> None:
    def stored_anyway(request: Request, answer: Answer) -> Answer:
        return Answer(200, {"ETag": '"not-an-md5"'}, b"") if answer.status == 412 else answer

    wire.spoil_answer = stored_anyway
    with pytest.raises(StorageUnavailable, match="ignores `If-None-Match"):
        await behind.put_bytes("jobs/1/part", b"1", if_absent=True)


async def test_only_the_first_conditional_put_is_tried_twice(wire: BadWire, behind: ObjectStorage) -> None:
    for number in range(3):
        assert await behind.put_bytes(f"jobs/1/{number}", b"1", if_absent=True)
    assert len(wire.requests) == 4
