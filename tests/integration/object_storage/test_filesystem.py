"""What only a folder has: a disk that fills, and uploads that a dead process left behind."""

import asyncio
import os
import resource
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from service.object_storage import open_chunks, open_storage
from service.object_storage.base import ObjectNotFound, StorageFull, StorageUnavailable
from tests.fixtures.object_storage import MIB, in_folder, stream_of


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """2 MiB, in memory."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def small_files(folder: Path) -> Iterator[None]:
    """2 MiB a file for this process: what the kernel refuses beyond it looks to us like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [small_disk, small_files])
async def test_a_full_disk_is_reported_and_nothing_is_left_of_the_upload(
    limit: Callable[[Path], AbstractContextManager[None]], tmp_path: Path
) -> None:
    folder = tmp_path / "disk"
    with limit(folder):
        stored = in_folder(folder)
        await stored.storage.put_bytes("files/kept", b"kept")
        for key in ("files/kept", "files/new"):
            with pytest.raises(StorageFull, match=f"storage is full: {key}"):
                await stored.storage.put(key, stream_of(bytes(5 * MIB)))
            with pytest.raises(StorageFull):
                await stored.storage.put_bytes(key, bytes(5 * MIB))

        assert [found.key async for found in stored.storage.list("files/")] == ["files/kept"]
        assert await stored.storage.get_bytes("files/kept") == b"kept"
        assert stored.unfinished() == 0
        await stored.storage.put("files/new", stream_of(bytes(MIB)))  # there is room again


async def test_a_start_removes_dead_uploads_and_keeps_living_ones(tmp_path: Path) -> None:
    stored = in_folder(tmp_path)
    (tmp_path / ".incoming" / "dead").write_bytes(b"half a file")
    waits_for_more, more = asyncio.Event(), asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(MIB)
        waits_for_more.set()
        await more.wait()

    put = asyncio.create_task(stored.storage.put("files/one", chunks()))
    await waits_for_more.wait()
    assert stored.unfinished() == 2

    in_folder(tmp_path)
    assert stored.unfinished() == 1
    more.set()
    await put
    assert await stored.storage.head("files/one") == MIB
    assert stored.unfinished() == 0


async def test_a_folder_with_odd_characters_is_found_by_its_uri(tmp_path: Path) -> None:
    stored = in_folder(tmp_path / "a b%20#ä?")
    await stored.storage.put_bytes("files/one", b"1")
    assert stored.read("files/one") == b"1"


async def test_a_folder_that_vanished_is_a_broken_storage_and_no_missing_object(tmp_path: Path) -> None:
    stored = in_folder(tmp_path / "objects")
    (tmp_path / "objects").rename(tmp_path / "elsewhere")
    with pytest.raises(StorageUnavailable):
        await stored.storage.put("files/one", stream_of(b"1"))


@pytest.mark.parametrize("uri", ["", "objects", "/objects", "file:objects", "file://host/objects", "gs://bucket/x"])
def test_an_address_of_another_kind_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="neither file:///folder nor s3://bucket/prefix"):
        open_storage(uri)


def test_a_root_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageUnavailable, match="Not a directory"):
        open_storage((tmp_path / "file" / "objects").as_uri())


def test_a_missing_object_is_reported_when_it_is_opened(tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFound):
        open_chunks((tmp_path / "none").as_uri())
