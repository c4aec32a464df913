"""What both storages need to move bytes: pieces of one size, their digests, and blocking calls in threads."""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from service.object_storage.base import DigestMismatch, PutResult, StoredObject

P = ParamSpec("P")
T = TypeVar("T")


class Digests:
    """Of an object on its way in."""

    def __init__(self, *, md5: str | None = None) -> None:
        self._expected_md5 = md5 and md5.lower()
        self._md5 = None if md5 is None else hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()
        self.bytes = 0

    def update(self, piece: bytes | bytearray) -> None:
        """Takes milliseconds for a megabyte: to be called in a thread."""
        self.bytes += len(piece)
        self._sha256.update(piece)
        if self._md5 is not None:
            self._md5.update(piece)

    def result(self) -> PutResult:
        """Raises DigestMismatch."""
        if self._md5 is not None and self._md5.hexdigest() != self._expected_md5:
            raise DigestMismatch(self._md5.hexdigest())
        return PutResult(self.bytes, self._sha256.hexdigest())


async def pieces_of(size: int, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytearray]:
    """Chunks of any length as pieces of exactly `size` bytes; the last one, if there is a rest, is shorter."""
    piece = bytearray()
    async for chunk in chunks:
        rest = memoryview(chunk)
        while len(piece) + len(rest) >= size:
            cut = size - len(piece)
            piece += rest[:cut]
            rest = rest[cut:]
            yield piece
            piece = bytearray()
        piece += rest
    if piece:
        yield piece


@dataclass(frozen=True)
class Range:
    """Of an object: bytes from `start` up to and without `end`, at least one."""

    key: str
    start: int
    end: int


def piece_ranges(sources: Iterable[StoredObject], size: int) -> Iterator[Sequence[Range]]:
    """Where the bytes of each piece lie when the sources, one after the other, are cut up as `pieces_of` does."""
    piece: list[Range] = []
    missing = size
    for source in sources:
        start = 0
        while start < source.bytes:
            end = min(source.bytes, start + missing)
            piece.append(Range(source.key, start, end))
            missing -= end - start
            start = end
            if missing == 0:
                yield piece
                piece, missing = [], size
    if piece:
        yield piece


async def run_to_end(executor: Executor | None, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A blocking call in a thread. Threads cannot be cancelled, so a cancelled caller waits until the call has ended:
    what cleans up after it must not close a file, or abort an upload, that is being written to."""
    call = asyncio.get_running_loop().run_in_executor(executor, partial(function, *args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    while not call.done():
        try:
            await asyncio.wait([call])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        call.exception()  # looked at, so that asyncio does not report it as forgotten
        raise cancelled
    return call.result()


async def in_order(calls: Iterable[Callable[[], Awaitable[T]]], at_once: int) -> AsyncGenerator[T, None]:
    """The results of the calls in their order, while the next ones run already. Close it, or some run on."""
    running: deque[asyncio.Future[T]] = deque()
    try:
        for call in calls:
            if len(running) == at_once:
                yield await running.popleft()
            running.append(asyncio.ensure_future(call()))
        while running:
            yield await running.popleft()
    finally:
        for future in running:
            future.cancel()
        await asyncio.gather(*running, return_exceptions=True)
