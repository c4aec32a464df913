"""What every storage does, over a folder and over a real S3 server."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence

import pytest

from service.object_storage.base import DigestMismatch, InvalidKey, ObjectNotFound, StorageUnavailable, StoredObject
from tests.fixtures.object_storage import MIB, StorageUnderTest, stream_of


@pytest.mark.parametrize("size", [0, 1, MIB, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 20 * MIB + 12345])
async def test_what_is_put_is_read_back(stored: StorageUnderTest, size: int) -> None:
    content = os.urandom(size)
    result = await stored.storage.put("files/one", stream_of(content))

    assert (result.bytes, result.sha256) == (size, hashlib.sha256(content).hexdigest())
    assert await stored.storage.head("files/one") == size
    assert b"".join([chunk async for chunk in stored.storage.get("files/one")]) == content
    assert await stored.storage.get_bytes("files/one") == content
    assert stored.read("files/one") == content
    assert stored.unfinished() == 0


async def test_a_put_replaces_what_was_there(stored: StorageUnderTest) -> None:
    await stored.storage.put_bytes("files/one", b"a long first content")
    await stored.storage.put("files/one", stream_of(b"second"))
    assert await stored.storage.get_bytes("files/one") == b"second"
    assert await stored.storage.put_bytes("files/one", b"third")
    assert await stored.storage.get_bytes("files/one") == b"third"


async def test_an_object_is_not_seen_before_it_is_whole(stored: StorageUnderTest) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(6 * MIB)
            assert await stored.storage.head("files/one") is None
            assert [found.key async for found in stored.storage.list("files/")] == []

    await stored.storage.put("files/one", chunks())
    assert await stored.storage.head("files/one") == 18 * MIB


@pytest.mark.parametrize("sent", [0, MIB, 20 * MIB])
async def test_a_failed_put_leaves_what_was_there_and_nothing_else(stored: StorageUnderTest, sent: int) -> None:
    class ClientLeft(Exception):
        pass

    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(sent)
        raise ClientLeft

    await stored.storage.put_bytes("files/kept", b"kept")
    for key in ("files/kept", "files/new"):
        with pytest.raises(ClientLeft):
            await stored.storage.put(key, chunks())

    assert [found.key async for found in stored.storage.list("files/")] == ["files/kept"]
    assert await stored.storage.get_bytes("files/kept") == b"kept"
    assert stored.unfinished() == 0


@pytest.mark.parametrize("sent", [MIB, 20 * MIB])
async def test_a_cancelled_put_leaves_nothing(stored: StorageUnderTest, sent: int) -> None:
    waits_for_more = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(sent)
        waits_for_more.set()
        await asyncio.Event().wait()

    put = asyncio.create_task(stored.storage.put("files/one", chunks()))
    await waits_for_more.wait()
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put

    assert await stored.storage.head("files/one") is None
    assert stored.unfinished() == 0


async def test_a_put_cancelled_while_bytes_are_written_leaves_nothing(stored: StorageUnderTest) -> None:
    writes_next = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(20 * MIB)
        writes_next.set()
        yield bytes(20 * MIB)

    put = asyncio.create_task(stored.storage.put("files/one", chunks()))
    await writes_next.wait()
    while not put.done():  # as anyio's cancel scopes do: again and again until it has ended
        put.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await put

    assert await stored.storage.head("files/one") is None
    assert stored.unfinished() == 0


async def test_puts_at_once_do_not_mix(stored: StorageUnderTest) -> None:
    contents = [os.urandom(12 * MIB + number) for number in range(4)]
    await asyncio.gather(
        *(stored.storage.put(f"files/{number}", stream_of(content)) for number, content in enumerate(contents))
    )
    assert [await stored.storage.get_bytes(f"files/{number}") for number in range(4)] == contents


async def put_parts(stored: StorageUnderTest, contents: Sequence[bytes]) -> list[StoredObject]:
    parts = [StoredObject(f"parts/{number}", len(content)) for number, content in enumerate(contents)]
    await asyncio.gather(
        *(
            stored.storage.put(part.key, stream_of(content))
            for part, content in zip(parts, contents, strict=True)
            if content
        )
    )
    return parts


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [1],
        [1, 1, 1],
        [8 * MIB],
        [8 * MIB, 8 * MIB],
        [8 * MIB + 1, 1, 16 * MIB, 5 * MIB - 1, 3 * MIB, 12 * MIB],
        [1000] * 50,
        [20 * MIB, 30 * MIB],
    ],
    ids=str,
)
async def test_objects_become_one_in_the_order_given(stored: StorageUnderTest, sizes: list[int]) -> None:
    contents = [os.urandom(size) for size in sizes]
    parts = await put_parts(stored, contents)
    whole = b"".join(reversed(contents))
    result = await stored.storage.concatenate("files/one", parts[::-1], md5=hashlib.md5(whole).hexdigest().upper())
    assert (result.bytes, result.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert await stored.storage.get_bytes("files/one") == whole
    assert [await stored.storage.get_bytes(part.key) for part in parts] == contents
    assert stored.unfinished() == 0


@pytest.mark.parametrize("size", [0, 1, 30 * MIB])
async def test_a_concatenation_of_other_content_leaves_nothing(stored: StorageUnderTest, size: int) -> None:
    content = os.urandom(size)
    parts = await put_parts(stored, [content] if size else [])
    with pytest.raises(DigestMismatch) as error:
        await stored.storage.concatenate("files/one", parts, md5=hashlib.md5(b"other").hexdigest())
    assert error.value.md5 == hashlib.md5(content).hexdigest()
    assert await stored.storage.head("files/one") is None
    assert stored.unfinished() == 0


async def test_a_concatenation_that_lacks_a_source_leaves_nothing(stored: StorageUnderTest) -> None:
    parts = await put_parts(stored, [os.urandom(20 * MIB)] * 3)
    await stored.storage.delete(parts[2].key)
    with pytest.raises(ObjectNotFound, match=parts[2].key):
        await stored.storage.concatenate("files/one", parts)
    too_long = [parts[0], StoredObject(parts[1].key, parts[1].bytes + 1)]
    with pytest.raises(StorageUnavailable, match=parts[1].key):
        await stored.storage.concatenate("files/one", too_long)
    assert await stored.storage.head("files/one") is None
    assert stored.unfinished() == 0


async def test_a_cancelled_concatenation_leaves_nothing(stored: StorageUnderTest) -> None:
    parts = await put_parts(stored, [os.urandom(40 * MIB)] * 3)
    concatenation = asyncio.create_task(stored.storage.concatenate("files/one", parts))
    while not await asyncio.to_thread(stored.unfinished):
        assert not concatenation.done(), "it was to be cancelled midway"
    concatenation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await concatenation
    assert await stored.storage.head("files/one") is None
    assert stored.unfinished() == 0


async def test_discarded_is_deleted(stored: StorageUnderTest) -> None:
    await stored.storage.put_bytes("files/one", b"1")
    await stored.storage.put_bytes("files/one-more", b"2")
    await stored.storage.discard("files/one")
    await stored.storage.discard("files/one")
    assert [found.key async for found in stored.storage.list("files/")] == ["files/one-more"]


async def test_of_several_writers_if_absent_exactly_one_wins(stored: StorageUnderTest) -> None:
    writers = [stored.storage.put_bytes("lock", str(number).encode(), if_absent=True) for number in range(8)]
    won = await asyncio.gather(*writers)
    assert sum(won) == 1
    assert await stored.storage.get_bytes("lock") == str(won.index(True)).encode()
    assert not await stored.storage.put_bytes("lock", b"late", if_absent=True)
    assert stored.unfinished() == 0


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, None, b"0123456789"),
        (0, 4, b"0123"),
        (4, None, b"456789"),
        (3, 7, b"3456"),
        (9, 10, b"9"),
        (5, 5, b""),
        (0, 0, b""),
        (8, 100, b"89"),
        (10, None, b""),
        (100, 200, b""),
    ],
)
async def test_ranges(stored: StorageUnderTest, start: int, end: int | None, expected: bytes) -> None:
    await stored.storage.put_bytes("files/one", b"0123456789")
    assert b"".join([chunk async for chunk in stored.storage.get("files/one", start, end)]) == expected


async def test_a_long_range_comes_in_chunks(stored: StorageUnderTest) -> None:
    content = os.urandom(3 * MIB)
    await stored.storage.put_bytes("files/one", content)
    chunks = [chunk async for chunk in stored.storage.get("files/one", 1000, 3 * MIB - 1000)]
    assert b"".join(chunks) == content[1000:-1000]
    assert max(len(chunk) for chunk in chunks) <= MIB


@pytest.mark.parametrize(("start", "end"), [(-1, None), (5, 4)])
async def test_what_is_no_range_is_refused(stored: StorageUnderTest, start: int, end: int) -> None:
    with pytest.raises(ValueError, match="not a range"):
        await anext(stored.storage.get("files/one", start, end))


@pytest.mark.parametrize("key", ["files/none", "files", "files/one/below"])
async def test_what_is_not_there_is_reported_as_such(stored: StorageUnderTest, key: str) -> None:
    await stored.storage.put_bytes("files/one", b"1")
    assert await stored.storage.head(key) is None
    await stored.storage.delete(key)
    with pytest.raises(ObjectNotFound, match=key):
        await stored.storage.get_bytes(key)
    for start, end in ((0, None), (3, None), (0, 0)):
        with pytest.raises(ObjectNotFound, match=key):
            await anext(stored.storage.get(key, start, end))
    with pytest.raises(ObjectNotFound, match=key):
        stored.read(key)


async def test_delete_removes_one_object(stored: StorageUnderTest) -> None:
    await stored.storage.put_bytes("files/one", b"1")
    await stored.storage.put_bytes("files/two", b"2")
    await stored.storage.delete("files/one")
    await stored.storage.delete("files/one")
    assert [found.key async for found in stored.storage.list("files/")] == ["files/two"]


async def test_a_prefix_is_a_folder_and_not_its_neighbour(stored: StorageUnderTest) -> None:
    keys = ["jobs/1/events/00000001.jsonl", "jobs/1/events/00000002.jsonl", "jobs/1/spec.json", "jobs/10/spec.json"]
    for key in reversed(keys):
        await stored.storage.put_bytes(key, key.encode())
    assert [found.key async for found in stored.storage.list("jobs/")] == keys
    assert [found.key async for found in stored.storage.list("jobs/1/")] == keys[:3]
    assert [found.key async for found in stored.storage.list("jobs/2/")] == []

    await stored.storage.delete_prefix("jobs/1/")
    await stored.storage.delete_prefix("jobs/1/")
    assert [found.key async for found in stored.storage.list("jobs/")] == keys[3:]


async def test_more_objects_than_one_answer_of_s3_holds(stored: StorageUnderTest) -> None:
    keys = [f"jobs/1/events/{number:08d}.jsonl" for number in range(1001)]
    for start in range(0, len(keys), 100):
        await asyncio.gather(*(stored.storage.put_bytes(key, b"{}") for key in keys[start : start + 100]))
    assert [found.key async for found in stored.storage.list("jobs/1/")] == keys
    await stored.storage.delete_prefix("jobs/1/")
    assert [found.key async for found in stored.storage.list("jobs/1/")] == []


HOSTILE_KEYS = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../x",
    "a/../../x",
    "a/./b",
    "a//b",
    "a/",
    "a\0b",
    "a\nb",
    "a b",
    "a\\..\\b",
]
HOSTILE_KEYS += [".incoming/x", "a/.b", "ä", "%2e%2e/x", "a" * 201, "/".join(["a" * 100] * 10), "a\n"]


@pytest.mark.parametrize("key", HOSTILE_KEYS)
async def test_hostile_keys_are_refused(stored: StorageUnderTest, key: str) -> None:
    storage = stored.storage
    with pytest.raises(InvalidKey):
        await storage.put(key, stream_of(b"x"))
    with pytest.raises(InvalidKey):
        await storage.put_bytes(key, b"x")
    with pytest.raises(InvalidKey):
        await anext(storage.get(key))
    with pytest.raises(InvalidKey):
        await storage.get_bytes(key)
    with pytest.raises(InvalidKey):
        await storage.head(key)
    with pytest.raises(InvalidKey):
        await storage.delete(key)
    with pytest.raises(InvalidKey):
        storage.uri(key)
    with pytest.raises(InvalidKey):
        await storage.delete_prefix(key + "/")


@pytest.mark.parametrize("prefix", ["", "/", "jobs", "jobs/1", "../", "jobs/../"])
async def test_a_prefix_that_is_no_folder_is_refused(stored: StorageUnderTest, prefix: str) -> None:
    with pytest.raises(InvalidKey):
        await anext(stored.storage.list(prefix))
    with pytest.raises(InvalidKey):
        await stored.storage.delete_prefix(prefix)
