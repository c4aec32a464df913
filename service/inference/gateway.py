"""Passes completion requests through to vLLM: OpenAI's names outside, adapter hashes inside."""

import json
import logging
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import httpx
from fastapi import Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from service.errors import ApiError, InvalidRequest, NotFound, UpstreamFailed
from service.inference.engines import Engine, Engines, not_served
from service.inference.event_stream import encode_event, rename_event, renamed, split_events
from service.inference.routing import AdapterRefused, ServedModel
from service.inference.unsupported import refuse_unsupported
from service.inference.vllm_errors import translate_error

log = logging.getLogger(__name__)

EVENT_STREAM = "text/event-stream"


class _EngineLost(Exception):
    """vLLM went away before it had answered anything: another one may be asked the same."""


async def forward(servers: Engines, path: str, body: dict[str, Any], model: ServedModel) -> Response:
    """`path` is `/v1/chat/completions` or `/v1/completions`; `body` as the client sent it. Raises ApiError.

    Cancelling it cancels the request inside vLLM.
    """
    if not servers.serves(model.base):
        raise not_served(model.base, model.public_name)
    refuse_unsupported(body, model)
    body = {**body, "model": model.engine_name}
    for _ in range(2):  # a vLLM that died is started again, here or by whoever runs it, and asked once more
        engine = await servers.ready(model.base)
        try:
            return await _ask(servers, engine, path, body, model)
        except _EngineLost as error:
            log.warning("vLLM of %s at %s is lost: %s", model.base.name, engine.url, error)
            servers.suspect(model.base, engine)
    raise UpstreamFailed(f"The model '{model.public_name}' failed to answer, twice. The log of this server says why.")


async def warm(servers: Engines, model: ServedModel) -> None:
    """Starts the base's vLLM, has it load the adapter and make one token, so that the first real request is fast.

    Does nothing for a base that is only tuned here. Raises AdapterRefused when vLLM will never load it, and ApiError
    when it could not be tried.
    """
    if not servers.serves(model.base):
        return
    try:
        await forward(servers, "/v1/completions", {"prompt": [0], "max_tokens": 1}, model)
    except (NotFound, InvalidRequest) as error:
        raise AdapterRefused(f"The adapter was trained but vLLM does not load it: {error.message}") from error


async def _ask(servers: Engines, engine: Engine, path: str, body: dict[str, Any], model: ServedModel) -> Response:
    request = servers.client.build_request("POST", f"{engine.url}{path}", json=body, headers=engine.headers)
    try:
        upstream = await servers.client.send(request, stream=True)
    except httpx.ReadTimeout as error:
        raise _timed_out(model) from error
    except httpx.TransportError as error:
        raise _EngineLost(repr(error)) from error
    try:
        if upstream.status_code != HTTPStatus.OK:
            raise await _explain(servers, engine, upstream, model)
        if upstream.headers.get("content-type", "").startswith(EVENT_STREAM):
            events = split_events(upstream.aiter_bytes())
            first = await anext(events)  # until there is one, the request can still be repeated
            return _Relay(upstream, first, events, model)
        answer = JSONResponse(renamed(json.loads(await upstream.aread()), model))
    except httpx.ReadTimeout as error:
        await upstream.aclose()
        raise _timed_out(model) from error
    except (httpx.TransportError, StopAsyncIteration, json.JSONDecodeError) as error:
        await upstream.aclose()
        raise _EngineLost(repr(error)) from error
    except BaseException:  # cancelled, too: closing is what tells vLLM to stop generating
        await upstream.aclose()
        raise
    await upstream.aclose()
    return answer


async def _explain(
    servers: Engines, engine: Engine, upstream: httpx.Response, model: ServedModel
) -> ApiError | _EngineLost:
    content = await upstream.aread()
    status = upstream.status_code
    if status == HTTPStatus.UNAUTHORIZED:
        return _EngineLost("somebody else answers there, or it has another key now")
    if status in (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE):  # vLLM never says so: what stands before it
        return _EngineLost(f"its proxy answered {status}")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("vLLM of %s answered %d: %s", model.base.name, status, content.decode(errors="replace"))
        if not await servers.is_healthy(engine):
            return _EngineLost(f"it answered {status} and is not healthy")
    return translate_error(status, content, model)


class _Relay(StreamingResponse):
    """Passes events on as they come, and closes the connection to vLLM whatever becomes of the client."""

    def __init__(
        self, upstream: httpx.Response, first: bytes, events: AsyncIterator[bytes], model: ServedModel
    ) -> None:
        super().__init__(_relay(first, events, model), media_type=EVENT_STREAM, headers={"cache-control": "no-cache"})
        self._upstream = upstream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._upstream.aclose()


async def _relay(first: bytes, events: AsyncIterator[bytes], model: ServedModel) -> AsyncIterator[bytes]:
    yield rename_event(first, model)
    try:
        async for event in events:
            yield rename_event(event, model)
    except httpx.TransportError as error:  # too late for a status: the SDKs raise an error event as an APIError
        log.error("vLLM of %s broke off an answer: %r", model.base.name, error)
        yield encode_event(UpstreamFailed(f"The model '{model.public_name}' broke off its answer. Try again.").body)


def _timed_out(model: ServedModel) -> UpstreamFailed:
    return UpstreamFailed(f"The model '{model.public_name}' did not answer in time. Ask for fewer tokens, or stream.")
