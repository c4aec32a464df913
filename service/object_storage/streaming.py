"""What both storages need to move bytes: pieces of one size, and blocking calls in threads."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


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
