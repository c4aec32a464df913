"""What holds for every operation of the API before its endpoint runs.

In this order: who calls, the query, the body, the `Idempotency-Key`. So a stranger's body is not even read.
"""

import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_flat_dependant
from fastapi.routing import APIRoute

from service.auth import Caller, find_caller
from service.dependencies import given_idempotency, open_session
from service.errors import InvalidRequest
from service.idempotency import HEADER, Idempotency, Replayed, checked_key, request_sha256
from service.json_body import MAX_BYTES, check_json, read_limited

AZURE_PARAMETERS = frozenset({"api-version"})
"""Sent with every request by Azure's clients; there is one version here."""

_PAIR = re.compile(r"([^\[\]]+)\[.*\]", re.DOTALL)
_MAPPINGS = frozenset({"metadata"})
"""Query parameters that are sent as `name[key]=value`."""

ONCE_SHOWN = "x-secret-answer"
"""In `openapi_extra` of an operation whose answer holds a secret."""

REPEATABLE = "x-repeatable"
"""In `openapi_extra` of a POST that makes nothing, or nothing new when it is repeated: it takes any Idempotency-Key."""


LIMITED = "x-limited"
"""In `openapi_extra` of an operation of which only so many run at once; more are answered with 429."""


class ApiRouter(APIRouter):
    """Its operations are ApiRoutes, and so are those of the routers that it includes."""

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().add_api_route(path, endpoint, **(options | {"route_class_override": ApiRoute}))


class ApiRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        known = AZURE_PARAMETERS | {field.alias for field in get_flat_dependant(self.dependant).query_params}

        async def checked(request: Request) -> Response:
            caller = request.state.caller = await find_caller(request)
            _check_query(request, known)
            content = b"" if self._reads_stream else await read_limited(request, MAX_BYTES)
            if not self._reads_stream:
                request = _ReadRequest(request, await self._parsed(request, content))
            idempotency = request.state.idempotency = self._idempotency(request, caller, content)
            try:
                response = await handle(request)
            except Replayed as first:
                headers = {"idempotent-replayed": "true"}
                return Response(first.answer, first.status, headers, media_type="application/json")
            if idempotency is not None and not self._reads_stream:
                await idempotency.keep(response.status_code, bytes(response.body))  # the session is still open
            return response

        return checked

    @property
    def takes_idempotency_key(self) -> bool:
        return any(depends_on(self.dependant, function) for function in (open_session, given_idempotency))

    @property
    def _reads_stream(self) -> bool:
        """The endpoint describes its body itself, and reads it piece by piece."""
        return "requestBody" in (self.openapi_extra or {})

    async def _parsed(self, request: Request, content: bytes) -> Any:
        if self.body_field is None:
            if content.strip() not in (b"", b"{}"):
                raise InvalidRequest(f"{request.method} {request.url.path} takes no body. Leave it out.")
            return None
        if not content and not self.body_field.field_info.is_required():
            return None
        return await check_json(content, request.headers.get("content-type"))

    def _idempotency(self, request: Request, caller: Caller, content: bytes) -> Idempotency | None:
        given, extra = request.headers.get(HEADER), self.openapi_extra or {}
        if given is None or request.method != "POST" or REPEATABLE in extra:
            return None  # the other methods are idempotent by nature
        if not self.takes_idempotency_key:
            message = f"POST {request.url.path} does not take the header 'Idempotency-Key'. Leave it out."
            raise InvalidRequest(message, param="Idempotency-Key")
        return Idempotency(
            project_id=caller.project_id,
            key=checked_key(given),
            request_sha256=request_sha256(request.method, request.url.path, content),
            has_secret_answer=ONCE_SHOWN in extra,
        )


class _ReadRequest(Request):
    """Hands FastAPI the body as it was parsed here."""

    def __init__(self, request: Request, parsed: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._parsed = parsed

    async def body(self) -> bytes:
        return b"" if self._parsed is None else b"{}"  # anything: whether there is one is all that is asked

    async def json(self) -> Any:
        return self._parsed


def _check_query(request: Request, known: frozenset[str]) -> None:
    seen: set[str] = set()
    for name, value in request.query_params.multi_items():
        pair = _PAIR.fullmatch(name)
        is_pair = pair is not None and pair[1] in _MAPPINGS & known
        if name not in known and not is_pair:
            raise InvalidRequest(f"Unknown query parameter: '{name[:100]}'.", param=name[:100])
        if name in seen and not name.endswith("[]") and not is_pair:
            raise InvalidRequest(f"The query parameter '{name}' is given twice. Send it once.", param=name)
        if "\0" in name or "\0" in value:
            raise InvalidRequest(f"'{name}' has the character U+0000, which nothing here has.", param=name)
        seen.add(name)


def depends_on(dependant: Dependant, function: Callable[..., Any]) -> bool:
    return dependant.call is function or any(depends_on(each, function) for each in dependant.dependencies)
