"""A file's bytes as lines, with their numbers; for `blocks`. Memory grows neither with the file nor with a line."""

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tuning.data.formats import MAX_LINE_BYTES

_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Block:
    """Some whole lines of a file."""

    number: int
    """Of the first of them, from 1."""
    content: bytes


def split_blocks(chunks: Iterable[bytes]) -> Iterator[Block]:
    """All lines, as they come. Of a line that is too long the tail may be missing: it is refused anyway."""
    number = 1
    pending = bytearray()
    for chunk in _small(chunks):
        end = chunk.rfind(b"\n") + 1
        if end:
            content = bytes(pending) + chunk[:end]
            yield Block(number, content)
            number += content.count(b"\n")
            pending.clear()
        pending += chunk[end : end + max(0, MAX_LINE_BYTES + 1 - len(pending))]
    if pending:
        yield Block(number, bytes(pending))


def join_blocks(blocks: Iterable[Block], size: int) -> Iterator[Block]:
    """Neighbours made one, until it has `size` bytes."""
    joined: list[Block] = []
    total = 0
    for block in blocks:
        joined.append(block)
        total += len(block.content)
        if total >= size:
            yield _join(joined)
            joined, total = [], 0
    if joined:
        yield _join(joined)


def split_lines(block: Block) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers, without the file's byte order mark."""
    for number, line in enumerate(block.content.split(b"\n"), block.number):
        if row := (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).rstrip():
            yield number, row


def _small(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if len(chunk) <= _PIECE_BYTES:
            yield chunk
        else:
            yield from (chunk[start : start + _PIECE_BYTES] for start in range(0, len(chunk), _PIECE_BYTES))


def _join(blocks: list[Block]) -> Block:
    return Block(blocks[0].number, b"".join(block.content for block in blocks))
