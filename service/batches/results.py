"""What came of a batch's requests, as a log of numbered parts in object storage.

A part is written once and never replaced, and the next one only after it: of two services that both believe to own a
batch, one finds its part's name taken and stops. So what is in the log is the truth about which requests are done,
also after a `kill -9` between a part and the database, and no request is in it twice.

A part's first line is its summary; each other line is a request's index, 1 or 0 for the output or the error file, and
the line of that file.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import msgspec

from service.object_storage.base import ObjectNotFound, ObjectStorage

OUTPUT, ERROR = b"1", b"0"


class PartTaken(Exception):
    """Somebody else has written a part of this number."""


class Usage(msgspec.Struct):
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def add(self, other: "Usage") -> None:
        self.input_tokens += other.input_tokens
        self.cached_tokens += other.cached_tokens
        self.output_tokens += other.output_tokens
        self.reasoning_tokens += other.reasoning_tokens


@dataclass(frozen=True)
class Result:
    index: int
    is_ok: bool
    line: bytes
    """Of the output or error file, without its line break."""
    usage: Usage


class Progress:
    """Which requests are done, and what they came to."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.parts = 0
        self.completed = 0
        self.failed = 0
        self.usage = Usage()
        self._done = bytearray(total)

    @property
    def columns(self) -> dict[str, int]:
        """Of the batch's row."""
        counts = {"completed_requests": self.completed, "failed_requests": self.failed}
        return counts | msgspec.structs.asdict(self.usage)

    @property
    def left(self) -> int:
        return self.total - self.completed - self.failed

    def is_done(self, index: int) -> bool:
        return bool(self._done[index])

    def add(self, index: int, *, is_ok: bool) -> None:
        self._done[index] = True
        if is_ok:
            self.completed += 1
        else:
            self.failed += 1


class ResultLog:
    def __init__(self, storage: ObjectStorage, batch_prefix: str) -> None:
        self._storage = storage
        self._prefix = f"{batch_prefix}results/"

    async def load(self, total: int) -> Progress:
        progress = Progress(total)
        async for lines in self._parts():
            progress.parts += 1
            progress.usage.add(msgspec.json.decode(lines[0], type=Usage))
            for line in lines[1:]:
                index, kind, _ = line.split(b" ", 2)
                progress.add(int(index), is_ok=kind == OUTPUT)
        return progress

    async def append(self, progress: Progress, results: Sequence[Result]) -> None:
        """Raises PartTaken. `progress` has what was written before, and afterwards this too."""
        usage = Usage()
        for result in results:
            usage.add(result.usage)
        lines = [msgspec.json.encode(usage)]
        lines += [b"%d %s %s" % (each.index, OUTPUT if each.is_ok else ERROR, each.line) for each in results]
        key = self._key(progress.parts + 1)
        if not await self._storage.put_bytes(key, b"\n".join(lines), if_absent=True):
            raise PartTaken(key)
        progress.parts += 1
        progress.usage.add(usage)
        for result in results:
            progress.add(result.index, is_ok=result.is_ok)

    async def lines(self, *, is_ok: bool) -> AsyncIterator[bytes]:
        """The lines of one of the files, part by part, with their line breaks."""
        wanted = OUTPUT if is_ok else ERROR
        async for lines in self._parts():
            parted = (line.split(b" ", 2) for line in lines[1:])
            yield b"".join(content + b"\n" for _, kind, content in parted if kind == wanted)

    async def _parts(self) -> AsyncIterator[list[bytes]]:
        number = 1
        while True:
            try:
                content = await self._storage.get_bytes(self._key(number))
            except ObjectNotFound:
                return
            yield content.split(b"\n")
            number += 1

    def _key(self, number: int) -> str:
        return f"{self._prefix}{number:08d}.jsonl"
