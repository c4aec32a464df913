"""The lines of an input file, in constant memory: split alike when they are checked and when they are answered."""

import codecs
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import jiter
import msgspec

from service.object_storage.base import ObjectStorage

MAX_LINE_BYTES = 16 * 1024 * 1024
"""As long as the body of a request that is sent by itself may be (`inference/endpoints.py`)."""

READ_BYTES = 256 * 1024
"""Read at a time: a batch runs for hours, over which no storage keeps a download open."""


@dataclass(frozen=True, slots=True)
class Line:
    index: int
    """Which request it is, from 0. Blank lines are none."""
    number: int
    """In the file, from 1, blank lines counted."""
    content: bytes


class NotJson(Exception):
    pass


class LineSplitter:
    """Chunks of any length as lines that are not blank, without a byte order mark. A line that is too long comes
    without its tail, to be refused."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._index = 0
        self._number = 1

    def feed(self, chunk: bytes) -> Iterator[Line]:
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            self._keep(piece)
            yield from self.end()
            self._number += 1
        self._keep(rest)

    def end(self) -> Iterator[Line]:
        """The last line of a file needs no line break."""
        content = bytes(self._pending)
        self._pending.clear()
        content = (content.removeprefix(codecs.BOM_UTF8) if self._number == 1 else content).strip()
        if content:
            yield Line(self._index, self._number, content)
            self._index += 1

    def _keep(self, piece: bytes) -> None:
        self._pending += piece[: MAX_LINE_BYTES + 1 - len(self._pending)]


async def read_lines(storage: ObjectStorage, key: str) -> AsyncIterator[Line]:
    """Reads on only when the next line is asked for."""
    splitter = LineSplitter()
    size = await storage.head(key) or 0
    for start in range(0, size, READ_BYTES):
        async for chunk in storage.get(key, start, min(start + READ_BYTES, size)):
            for line in splitter.feed(chunk):
                yield line
    for line in splitter.end():
        yield line


def decode_line(line: Line) -> dict[str, Any]:
    """Raises NotJson, also for what only lax parsers take: NaN, a key given twice, half a surrogate pair."""
    try:
        content = jiter.from_json(line.content, cache_mode="keys", catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError as error:
        raise NotJson from error
    if not isinstance(content, dict):
        raise NotJson
    return content


class _Named(msgspec.Struct):
    custom_id: str


def custom_id_of(line: Line) -> str:
    """Of a line that was checked; the rest of it is not decoded."""
    return msgspec.json.decode(line.content, type=_Named).custom_id
