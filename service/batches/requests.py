"""One request of a batch: asked through the gateway as its sender would ask, again when the engine is away."""

import asyncio
import json
import logging
from http import HTTPStatus
from typing import Any

import msgspec

from service.batches.input_lines import Line, custom_id_of
from service.batches.parts import BatchParts
from service.batches.results import Result, Usage
from service.database.tables import BatchRow
from service.errors import ApiError, NotFound, Unavailable, render_crash
from service.ids import batch_request_id, new_request_id
from service.inference.gateway import forward
from service.json_body import check_json

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""Of a request that an engine fails on: it may be the request that breaks the engine, so the batch goes on without it.
While an engine cannot be reached, as when it is being loaded, its requests wait as long as the batch lives."""
FIRST_DELAY_SECONDS = 1.0
MAX_DELAY_SECONDS = 60.0


class NotYet(Exception):
    """The engine is away or broke down: the same request may be asked again."""

    def __init__(self, answer: Result, *, seconds: float, is_counted: bool) -> None:
        super().__init__(seconds)
        self.answer = answer
        """What it comes to when it is not asked again."""
        self.seconds = seconds
        self.is_counted = is_counted


async def ask_until_answered(batch: BatchRow, parts: BatchParts, line: Line, first: NotYet) -> Result:
    """Goes on after the first try. Waits without taking room from other requests."""
    error, delay, attempts = first, FIRST_DELAY_SECONDS, 1
    while attempts < MAX_ATTEMPTS:
        await asyncio.sleep(min(max(delay, error.seconds), MAX_DELAY_SECONDS))
        delay *= 2
        try:
            async with parts.room:
                return await ask(batch, parts, line)
        except NotYet as again:
            error = again
            attempts += error.is_counted
    return error.answer


async def ask(batch: BatchRow, parts: BatchParts, line: Line) -> Result:
    """Raises NotYet. Whatever else goes wrong with a request is its result."""
    custom_id, request_id = custom_id_of(line), new_request_id()

    def result(status: int, answer: bytes, usage: Usage | None = None) -> Result:
        response = {"status_code": status, "request_id": request_id, "body": msgspec.Raw(answer)}
        content = _encode_line(batch, line.index, custom_id, response=response, error=None)
        return Result(line.index, status == HTTPStatus.OK, content, usage or Usage())

    def refusal(error: ApiError) -> Result:
        return result(error.status, json.dumps(error.body, ensure_ascii=False).encode())

    model = await parts.find_model(batch.project_id, batch.model or "")  # each time: it may be deleted meanwhile
    if model is None:
        return refusal(NotFound(f"The model '{batch.model}' does not exist", param="model", code="model_not_found"))
    assert parts.servers is not None
    try:
        request = await check_json(line.content, "application/json", allow_nul=True)
        response = await forward(parts.servers, batch.endpoint, request["body"], model)
        answer = bytes(response.body)
        return result(response.status_code, answer, _usage_of(answer))
    except Unavailable as error:
        raise NotYet(refusal(error), seconds=error.retry_after_seconds, is_counted=False) from error
    except ApiError as error:
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise NotYet(refusal(error), seconds=0, is_counted=True) from error
        return refusal(error)
    except Exception:  # what a request of its own would be told: a crash is one line's, and the others go on
        log.exception("request %d of %s crashed (%s)", line.index, batch.id, request_id)
        crash = render_crash()
        return result(crash.status_code, bytes(crash.body))


def unanswered_line(batch: BatchRow, line: Line, code: str, message: str) -> bytes:
    """For the error file: what was never asked, or whose answer came too late."""
    error = {"code": code, "message": message}
    return _encode_line(batch, line.index, custom_id_of(line), response=None, error=error)


def _encode_line(
    batch: BatchRow, index: int, custom_id: str, *, response: dict[str, Any] | None, error: dict[str, str] | None
) -> bytes:
    request_id = batch_request_id(batch.id, index)
    return msgspec.json.encode({"id": request_id, "custom_id": custom_id, "response": response, "error": error})


class _TokenDetails(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _TokenCounts(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: _TokenDetails | None = None
    completion_tokens_details: _TokenDetails | None = None


class _Answer(msgspec.Struct):
    usage: _TokenCounts | None = None


def _usage_of(answer: bytes) -> Usage:
    try:
        counts = msgspec.json.decode(answer, type=_Answer).usage or _TokenCounts()
    except msgspec.MsgspecError:  # an engine that counts in another way: its answer is none the worse
        return Usage()
    prompt, completion = counts.prompt_tokens_details, counts.completion_tokens_details
    return Usage(
        input_tokens=counts.prompt_tokens,
        cached_tokens=(prompt and prompt.cached_tokens) or 0,
        output_tokens=counts.completion_tokens or 0,
        reasoning_tokens=(completion and completion.reasoning_tokens) or 0,
    )
