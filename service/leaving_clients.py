"""Work for a client that may go away before it has its answer."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request, Response

from service.errors import CLIENT_CLOSED_REQUEST

_Answer = TypeVar("_Answer")


async def until_disconnect(request: Request, work: Coroutine[Any, Any, _Answer]) -> _Answer | Response:
    """Cancels the work when the client goes away; the response is then read by nobody. The body has been read."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
