"""The models that model graders ask: those of this server, then those of one OpenAI-compatible endpoint."""

import asyncio
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import httpx

from service.errors import ApiError, InvalidRequest
from service.inference.engines import Engines, not_served
from service.inference.gateway import forward
from service.inference.routing import FindServedModel, ServedModel
from service.settings import Settings
from tuning.graders.failure import GradingFailed
from tuning.graders.model_call import ModelAnswer, TokenUsage

_PATH = "/v1/chat/completions"
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
_AT_ONCE = 8  # questions under way; a multi grader may have twenty


class GraderModels:
    def __init__(self, settings: Settings, servers: Engines | None, find_model: FindServedModel) -> None:
        self._servers = servers
        self._find_model = find_model
        self._timeout = settings.grader_timeout.total_seconds()
        self._base_url = settings.grader_base_url
        key = settings.grader_api_key
        self._client = httpx.AsyncClient(
            headers={} if key is None else {"authorization": f"Bearer {key.get_secret_value()}"},
            timeout=self._timeout,
        )
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def close(self) -> None:
        await self._client.aclose()

    async def check(self, project_id: str, name: str, param: str) -> None:
        """Raises ApiError when there is nobody to ask for this model."""
        model = await self._find_model(project_id, name)
        if model is not None:
            if self._servers is None:
                message = "This server tunes models and does not serve them: it runs with FETTLE_SERVING=off."
                raise InvalidRequest(f"{message} '{name}' cannot grade.", param=param)
            if not self._servers.serves(model.base):
                message = not_served(model.base, name).message
                raise InvalidRequest(f"{message} '{name}' cannot grade.", param=param, code="model_not_served")
        elif self._base_url is None:
            raise InvalidRequest(
                f"The model '{name}' does not exist, and this server has no other endpoint to ask "
                "(FETTLE_GRADER_BASE_URL).",
                param=param,
                code="model_not_found",
            )

    async def ask(self, project_id: str, body: Mapping[str, Any]) -> ModelAnswer:
        """`body`: of a chat completion. Raises GradingFailed."""
        model = await self._find_model(project_id, body["model"])
        try:
            async with self._room, asyncio.timeout(self._timeout):
                answer = await (self._ask_endpoint(body) if model is None else self._ask_own(body, model))
        except TimeoutError as error:
            raise _failed(f"The model '{body['model']}' did not answer within {self._timeout:g} s.") from error
        return _read_answer(answer, body["model"])

    async def _ask_own(self, body: Mapping[str, Any], model: ServedModel) -> Any:
        assert self._servers is not None, "`check` comes first"
        try:
            response = await forward(self._servers, _PATH, dict(body), model)
        except ApiError as error:
            raise _failed(error.message) from error
        return json.loads(bytes(response.body))

    async def _ask_endpoint(self, body: Mapping[str, Any]) -> Any:
        assert self._base_url is not None, "`check` comes first"
        content = bytearray()
        try:
            url = f"{self._base_url.rstrip('/')}/chat/completions"
            async with self._client.stream("POST", url, json=body) as response:
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > _MAX_ANSWER_BYTES:
                        raise _failed("The grader endpoint's answer is too long.")
        except httpx.HTTPError as error:
            raise _failed(f"The grader endpoint does not answer ({type(error).__name__}).") from error
        if response.status_code != HTTPStatus.OK:
            raise _failed(f"The grader endpoint answered {response.status_code}: {_reason(bytes(content))}")
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _failed("The grader endpoint's answer is not JSON.") from error


def _read_answer(answer: Any, model: str) -> ModelAnswer:
    try:
        [choice, *_] = answer["choices"]
        message, usage = choice["message"], answer.get("usage") or {}
        return ModelAnswer(
            model=str(answer.get("model") or model)[:256].encode(errors="replace").decode(),
            text=str(message.get("content") or ""),
            refusal=None if message.get("refusal") is None else str(message["refusal"]),
            is_cut_off=choice.get("finish_reason") == "length",
            usage=TokenUsage(
                prompt_tokens=int(usage.get("prompt_tokens") or 0),
                completion_tokens=int(usage.get("completion_tokens") or 0),
                total_tokens=int(usage.get("total_tokens") or 0),
                cached_tokens=int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
            ),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _failed("The answer is no chat completion.") from error


def _reason(content: bytes) -> str:
    """What an OpenAI-shaped error says; nothing else of the body, which may be anybody's."""
    try:
        return str(json.loads(content)["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "no reason given."


def _failed(reason: str) -> GradingFailed:
    return GradingFailed("model_grader_server_error", reason)
