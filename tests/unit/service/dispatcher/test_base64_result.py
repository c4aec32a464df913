"""A result file as base64 is one text, however its bytes arrive."""

import base64
from collections.abc import AsyncIterator

import pytest

from service.dispatcher.ending import BASE64_PIECE_BYTES, as_base64


async def in_chunks(content: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


@pytest.mark.parametrize("length", [0, 1, 1000, BASE64_PIECE_BYTES, BASE64_PIECE_BYTES + 1, 3 * BASE64_PIECE_BYTES - 1])
@pytest.mark.parametrize("size", [1000, 65536, 10_000_000])
async def test_any_chunks_make_one_base64_text(length: int, size: int) -> None:
    content = bytes(number % 251 for number in range(length))
    assert b"".join([piece async for piece in as_base64(in_chunks(content, size))]) == base64.b64encode(content)
