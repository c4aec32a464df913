"""Object storage in a folder: an object is a file, and becomes visible by a rename when it is whole."""

import errno
import fcntl
import os
import shutil
import stat
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import ParamSpec, TypeVar

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
from service.object_storage.streaming import Digests, pieces_of, run_to_end

P = ParamSpec("P")
T = TypeVar("T")

_PIECE_BYTES = 1024 * 1024  # read or written by one visit to a thread
_INCOMING = ".incoming"  # no key begins with a dot

# EFBIG: larger than the file system, or the process's limit, lets a file be
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}


class FilesystemStorage:
    def __init__(self, root: Path) -> None:
        """Makes the folder, and removes what uploads left there whose process is dead."""
        self._root = root.resolve()
        self._incoming = self._root / _INCOMING
        with _translated(f"the folder {self._root}", missing=StorageUnavailable):
            self._incoming.mkdir(parents=True, exist_ok=True)
            _remove_dead_uploads(self._incoming)

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> PutResult:
        target = self._path(key)
        upload = _Upload(self._incoming)
        try:
            async for piece in pieces_of(_PIECE_BYTES, chunks):
                await _write_in_thread(key, upload.write, piece)
            await _write_in_thread(key, upload.publish, target, replace=True)
        finally:
            await _write_in_thread(key, upload.discard)
        return upload.digests.result()

    async def put_bytes(self, key: str, content: bytes, *, if_absent: bool = False) -> bool:
        target = self._path(key)

        def write() -> bool:
            upload = _Upload(self._incoming)
            try:
                upload.write(content)
                return upload.publish(target, replace=not if_absent)
            finally:
                upload.discard()

        return await _write_in_thread(key, write)

    async def concatenate(self, key: str, sources: Sequence[StoredObject], *, md5: str | None = None) -> PutResult:
        target = self._path(key)
        upload = _Upload(self._incoming, Digests(md5=md5))
        try:
            for source in sources:  # a source a visit: whoever cancels waits for one of them, not for all
                await _write_in_thread(key, upload.append, self._path(source.key), source.bytes)
            result = upload.digests.result()
            await _write_in_thread(key, upload.publish, target, replace=True)
        finally:
            await _write_in_thread(key, upload.discard)
        return result

    async def get(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        check_range(start, end)
        path = self._path(key)
        file = await _in_thread(key, path.open, "rb", buffering=0)
        with file:
            file.seek(start)
            position = start
            while True:
                wanted = _PIECE_BYTES if end is None else min(_PIECE_BYTES, end - position)
                piece = await _in_thread(key, file.read, wanted)
                if not piece:
                    return
                position += len(piece)
                yield piece

    async def get_bytes(self, key: str) -> bytes:
        return await _in_thread(key, self._path(key).read_bytes)

    async def head(self, key: str) -> int | None:
        path = self._path(key)
        return await _in_thread(key, lambda: path.stat().st_size if path.is_file() else None)

    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        folder = self._root / check_prefix(prefix)

        def files() -> list[StoredObject]:
            found = []
            for path in folder.rglob("*"):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    status = path.stat()
                    # No key begins with a dot: that is what a trainer has not finished writing.
                    if stat.S_ISREG(status.st_mode) and not path.name.startswith("."):
                        found.append(StoredObject(path.relative_to(self._root).as_posix(), status.st_size))
            return sorted(found, key=lambda each: each.key)

        for each in await _in_thread(prefix, files):
            yield each

    async def delete(self, key: str) -> None:
        path = self._path(key)
        with suppress(ObjectNotFound):
            await _in_thread(key, path.unlink)

    async def discard(self, key: str) -> None:
        """What unfinished puts left went when this storage was opened."""
        await self.delete(key)

    async def delete_prefix(self, prefix: str) -> None:
        folder = self._root / check_prefix(prefix)
        with suppress(ObjectNotFound):
            await _in_thread(prefix, shutil.rmtree, folder)

    def uri(self, key: str) -> str:
        return self._path(key).as_uri()

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)


def read_chunks(path: Path) -> Iterator[bytes]:
    with _translated(str(path)):
        file = path.open("rb", buffering=0)
    return _chunks(file, path)


def _chunks(file: FileIO, path: Path) -> Iterator[bytes]:
    with file, _translated(str(path)):
        while piece := file.read(_PIECE_BYTES):
            yield piece


class _Upload:
    """A file on its way in. It is locked while its process lives, which is how the next start knows the dead ones."""

    def __init__(self, folder: Path, digests: Digests | None = None) -> None:
        self._path = folder / uuid.uuid4().hex
        self._file: FileIO | None = None
        self.digests = digests or Digests()

    def write(self, content: bytes | bytearray) -> None:
        self.digests.update(content)
        file = self._opened()
        rest = memoryview(content)
        while rest:  # a disk that is about to be full takes a part
            rest = rest[file.write(rest) :]

    def append(self, source: Path, size: int) -> None:
        """Raises ObjectNotFound; StorageUnavailable when the source is not as long as it should be."""
        copied = 0
        for piece in read_chunks(source):
            self.write(piece)
            copied += len(piece)
        if copied != size:
            raise StorageUnavailable(f"{source} has {copied} bytes, not {size}")

    def publish(self, target: Path, *, replace: bool) -> bool:
        """Returns False, and changes nothing, when there is a file that must not be replaced."""
        os.fsync(self._opened())
        target.parent.mkdir(parents=True, exist_ok=True)
        if replace:
            self._path.replace(target)
        else:
            try:
                target.hardlink_to(self._path)
            except FileExistsError:
                return False
        _sync_folder(target.parent)
        return True

    def discard(self) -> None:
        """After `publish` nothing is left to remove, and only the file is closed."""
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)

    def _opened(self) -> FileIO:
        if self._file is None:
            self._file = self._path.open("xb", buffering=0)
            fcntl.flock(self._file, fcntl.LOCK_EX)
        return self._file


def _remove_dead_uploads(folder: Path) -> None:
    for path in folder.iterdir():
        with suppress(FileNotFoundError, BlockingIOError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _in_thread(what: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    with _translated(what):
        return await run_to_end(None, function, *args, **kwargs)


async def _write_in_thread(what: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A folder that vanished under a write is a broken storage, not a missing object."""
    with _translated(what, missing=StorageUnavailable):
        return await run_to_end(None, function, *args, **kwargs)


@contextmanager
def _translated(what: str, missing: type[StorageError] = ObjectNotFound) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(f"storage is full: {what} could not be written ({error.strerror})") from error
        kind = missing if error.errno in _MISSING else StorageUnavailable
        raise kind(f"storage failed on {what}: {error}") from error
