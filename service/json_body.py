"""JSON from outside, read strictly: its size counted as it arrives, and nothing in it that a database cannot take."""

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import jiter
from fastapi import Request

from service.errors import InvalidRequest, PayloadTooLarge

MAX_BYTES = 1024 * 1024
"""A request to the control plane has a few kilobytes; files have their own way in."""

_SMALL_BYTES = 64 * 1024  # parsed where it stands; more would keep other requests waiting
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


async def read_limited(request: Request, max_bytes: int) -> bytes:
    """Raises PayloadTooLarge as soon as it is known: from the header, or from the bytes themselves."""
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(content)


async def check_json(content: bytes, content_type: str | None, *, allow_nul: bool = False) -> Any:
    """The value of a body that has to be there. Raises InvalidRequest."""
    if not content:
        raise InvalidRequest("The body of your request is empty. Send a JSON object.")
    _check_content_type(content_type)
    if len(content) <= _SMALL_BYTES:
        return parse_json(content, allow_nul=allow_nul)
    return await asyncio.to_thread(parse_json, content, allow_nul=allow_nul)


def parse_json(content: bytes, *, allow_nul: bool = False) -> Any:
    """Raises InvalidRequest, also for what only lax parsers take: NaN, a key given twice, half a surrogate pair."""
    try:
        value = jiter.from_json(content.removeprefix(_BYTE_ORDER_MARK), cache_mode="keys", catch_duplicate_keys=True)
    except ValueError as error:
        raise InvalidRequest(f"We could not parse the JSON body of your request: {error}.") from None
    for path, leaf in _leaves(value):
        if isinstance(leaf, str) and "\0" in leaf and not allow_nul:
            message = f"'{path}' has the character U+0000, which cannot be stored. Leave it out."
            raise InvalidRequest(message, param=path)
        if isinstance(leaf, float) and not math.isfinite(leaf):
            message = f"'{path}' is not a number that JSON has: NaN, Infinity and what is beyond 1.8e308 are refused."
            raise InvalidRequest(message, param=path)
        if isinstance(leaf, int) and leaf.bit_length() > 1024:
            raise InvalidRequest(f"'{path}' is an integer with more digits than any field here takes.", param=path)
    return value


def _leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Every scalar with its path, `method.supervised.n_epochs` or `tags[2]`; a key comes as a string of its own."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        path, each = waiting.pop()
        if isinstance(each, dict):
            for key, inner in each.items():
                name = f"{path}.{key}" if path else key
                yield name.replace("\0", "\\u0000"), key
                waiting.append((name, inner))
        elif isinstance(each, list):
            waiting.extend((f"{path}[{index}]", inner) for index, inner in enumerate(each))
        else:
            yield path or "body", each


def _check_content_type(given: str | None) -> None:
    """A browser sends any other type to any site without asking it first, so that a page could start jobs here."""
    kind = (given or "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        said = f"not '{kind[:100]}'" if kind else "and there is none"
        raise InvalidRequest(
            f"The body must be JSON and say so, {said}. Send the header 'Content-Type: application/json'."
        )


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The body of your request is larger than the limit of {max_bytes:,} bytes. Send less; files go to /v1/files "
        "or /v1/uploads."
    )
