"""Azure's dialect: the same operations under `/openai` and `/openai/v1`, and models named in the path.

Azure's clients also send the `api-key` header, which `auth.py` reads, and `api-version`, which has no effect here.
"""

import re
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

_DEPLOYMENT = re.compile(rb"/openai/deployments/([^/]+)(/chat/completions|/completions)")
_PREFIXES = (b"/openai/v1/", b"/openai/")


class AzurePaths:
    """ASGI middleware. Gives such a request the path of the operation that it means."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (raw_path := _translated(scope)) is not None:
            scope = {**scope, "raw_path": raw_path, "path": unquote(raw_path.decode("ascii"))}
        await self._app(scope, receive, send)


def _translated(scope: Scope) -> bytes | None:
    raw_path: bytes = scope["raw_path"]
    if deployment := _DEPLOYMENT.fullmatch(raw_path):
        scope["state"]["deployment"] = unquote(deployment[1].decode("ascii"))
        return b"/v1" + deployment[2]
    prefix = next((prefix for prefix in _PREFIXES if raw_path.startswith(prefix)), None)
    return None if prefix is None else b"/v1/" + raw_path.removeprefix(prefix)
