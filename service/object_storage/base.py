"""Where bytes lie: files, runs and adapters, in a folder or in S3. The rest of the service knows this Protocol only."""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict

_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}"
_KEY = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
_MAX_KEY_LENGTH = 900  # S3 takes 1024 bytes, and the storage's own prefix comes before ours


AddressingStyle = Literal["auto", "path", "virtual"]


class S3Access(TypedDict, total=False):
    """How a bucket is reached; what is left out is boto3's to find. Credentials always are."""

    endpoint_url: str | None
    region: str | None
    addressing_style: AddressingStyle | None


class StorageError(Exception):
    pass


class ObjectNotFound(StorageError):
    pass


class InvalidKey(StorageError):
    """Ids are checked where they come in: whoever gets this has skipped that."""


class StorageFull(StorageError):
    """No space or no quota is left. Trying again is of no use until somebody makes room."""


class StorageUnavailable(StorageError):
    """Anything else that keeps the storage from answering; the message says what, and trying again may help."""


class DigestMismatch(StorageError):
    """The content is not the one that was announced; `md5` is what it really has."""

    def __init__(self, md5: str) -> None:
        super().__init__(f"the content has the MD5 {md5}")
        self.md5 = md5


@dataclass(frozen=True)
class PutResult:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class StoredObject:
    key: str
    bytes: int


class ObjectStorage(Protocol):
    """Keys are segments of letters, digits, `.`, `_` and `-` between slashes; none begins with a dot, and no key is
    also the folder of another. Prefixes are folders: they end with a slash. Every method raises StorageError."""

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> PutResult:
        """Stores chunks as they come, in constant memory. The object appears, or replaces the one before, when it is
        whole; when `chunks` raises or the caller is cancelled, nothing of it stays. (Cancelled in its last moment it
        may be whole already: delete the key where that matters.)"""
        ...

    async def put_bytes(self, key: str, content: bytes, *, if_absent: bool = False) -> bool:
        """Returns whether it was written: with `if_absent`, of several writers exactly one is told True."""
        ...

    async def concatenate(self, key: str, sources: Sequence[StoredObject], *, md5: str | None = None) -> PutResult:
        """One object from others in their order, in constant memory; the others stay. Like a `put`, nothing of it stays
        when it fails: with ObjectNotFound for a source, with DigestMismatch when `md5` (in hex) is another one."""
        ...

    def get(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Bytes from `start` up to and without `end`; what lies beyond the object's end is left out. Nothing is opened
        before the first chunk is asked for: ObjectNotFound comes there."""
        ...

    async def get_bytes(self, key: str) -> bytes: ...

    async def head(self, key: str) -> int | None:
        """The size in bytes; None when there is no such object."""
        ...

    def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """In the order of their keys."""
        ...

    async def delete(self, key: str) -> None:
        """An object that is not there is no error."""
        ...

    async def discard(self, key: str) -> None:
        """Deletes, and also removes what unfinished puts of this key left behind when their process died."""
        ...

    async def delete_prefix(self, prefix: str) -> None: ...

    def uri(self, key: str) -> str:
        """What the trainer, the adapter resolver and `open_chunks` read: `file:///…` or `s3://…`."""
        ...


def check_key(key: str) -> str:
    if len(key) > _MAX_KEY_LENGTH or not _KEY.fullmatch(key):
        raise InvalidKey(f"{key!r} is not a key of object storage")
    return key


def check_prefix(prefix: str) -> str:
    """A prefix without its slash would also mean the neighbour: `jobs/1` is the beginning of `jobs/10/…`."""
    if not prefix.endswith("/"):
        raise InvalidKey(f"{prefix!r} is not a folder of object storage: it does not end with a slash")
    check_key(prefix[:-1])
    return prefix


def check_range(start: int, end: int | None) -> None:
    if start < 0 or (end is not None and end < start):
        raise ValueError(f"bytes {start} to {end} are not a range")
