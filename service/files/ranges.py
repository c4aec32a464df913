"""The `Range` header of a download (RFC 9110): one range of bytes; anything else is answered with the whole."""

import re

from service.errors import RangeNotSatisfiable

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Start and end (exclusive), or None for the whole content. Raises RangeNotSatisfiable."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None  # not a range: RFC 9110 says to ignore it
    if start >= size or start == end:
        raise RangeNotSatisfiable(size)
    return start, end
