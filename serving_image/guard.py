"""ASGI middleware over vLLM: an allow-list of paths, each behind the key, and `/livez` for a cluster's probes.

vLLM's own `--api-key` leaves `/adapters`, `/invocations`, `/tokenize` and more open once adapters can be loaded while
it runs (checked against vLLM 0.32). Only the gateway speaks to vLLM, and this is all that the gateway needs. A probe
has no key; all that it learns is whether vLLM's own `/health` says yes.
"""

import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ALLOWED = frozenset(
    {
        ("GET", "/health"),
        ("GET", "/metrics"),
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
    }
)


LIVEZ = ("GET", "/livez")


class Guard:
    def __init__(self, app: App) -> None:
        """Raises KeyError without VLLM_API_KEY: an engine without a key must not start."""
        self._app = app
        self._authorization = f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})  # policy violation
        elif (scope["method"], scope["path"]) == LIVEZ:
            await self._answer_probe(scope, receive, send)
        elif not self._has_key(scope):
            await _refuse(send, HTTPStatus.UNAUTHORIZED)
        elif (scope["method"], scope["path"]) not in ALLOWED:
            await _refuse(send, HTTPStatus.NOT_FOUND)
        else:
            await self._app(scope, receive, send)

    async def _answer_probe(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Nothing of the request reaches vLLM, and nothing of vLLM's answer but its status reaches the probe."""
        said = HTTPStatus.SERVICE_UNAVAILABLE

        async def keep_status(message: MutableMapping[str, Any]) -> None:
            nonlocal said
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.OK:
                said = HTTPStatus.OK

        health = {**scope, "path": "/health", "raw_path": b"/health", "query_string": b"", "headers": []}
        await self._app(health, receive, keep_status)
        await _send_json(send, said, {"status": "ok" if said == HTTPStatus.OK else "unavailable"})

    def _has_key(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._authorization)


async def _refuse(send: Send, status: HTTPStatus) -> None:
    error = {"message": status.phrase, "type": "invalid_request_error", "param": None, "code": None}
    await _send_json(send, status, {"error": error})


async def _send_json(send: Send, status: HTTPStatus, content: object) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})
