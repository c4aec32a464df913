"""`/v1/chat/completions` and `/v1/completions`: find the model, pass the request through to its vLLM."""

from typing import Any

from fastapi import APIRouter, Request, Response

from service.api_route import REPEATABLE
from service.auth import Caller, Reader
from service.errors import InvalidRequest, NotFound
from service.inference import documentation
from service.inference.gateway import forward
from service.json_body import check_json, read_limited
from service.leaving_clients import until_disconnect

router = APIRouter(tags=["Inference"])

MAX_BODY_BYTES = 16 * 1024 * 1024
"""Text of the longest contexts in use fits many times over; it is held in memory once per request."""

_CHAT_EXTRA = documentation.CHAT_REQUEST | {REPEATABLE: True}
_COMPLETION_EXTRA = documentation.COMPLETION_REQUEST | {REPEATABLE: True}


@router.post(
    "/chat/completions",
    openapi_extra=_CHAT_EXTRA,
    responses=documentation.CHAT_RESPONSES,
    response_class=Response,
)
async def create_chat_completion(request: Request, caller: Reader) -> Response:
    """Answers a conversation with a base model or a fine-tuned one, whole or as server-sent events."""
    return await _pass_through("/v1/chat/completions", request, caller)


@router.post(
    "/completions",
    openapi_extra=_COMPLETION_EXTRA,
    responses=documentation.COMPLETION_RESPONSES,
    response_class=Response,
)
async def create_completion(request: Request, caller: Reader) -> Response:
    """Continues a text with a base model or a fine-tuned one, whole or as server-sent events."""
    return await _pass_through("/v1/completions", request, caller)


async def _pass_through(path: str, request: Request, caller: Caller) -> Response:
    servers = request.app.state.vllm
    if servers is None:
        raise InvalidRequest("This server tunes models and does not serve them: it runs with FETTLE_SERVING=off.")
    body = await _read_body(request)
    model = await request.app.state.find_served_model(caller.project_id, body["model"])
    if model is None:
        raise NotFound(f"The model '{body['model']}' does not exist", param="model", code="model_not_found")
    request.state.base_model = model.base.name
    # cancelled, and the request to vLLM with it, when the client goes away before the answer begins
    return await until_disconnect(request, forward(servers, path, body, model))


async def _read_body(request: Request) -> dict[str, Any]:
    content = await read_limited(request, MAX_BODY_BYTES)
    body = await check_json(content, request.headers.get("content-type"), allow_nul=True)
    if not isinstance(body, dict):
        raise InvalidRequest("The body of your request must be a JSON object.")
    if (deployment := getattr(request.state, "deployment", None)) is not None:
        body["model"] = deployment  # Azure's path says who answers, whatever the body says
    model = body.get("model")
    if not isinstance(model, str) or not model:
        message = "you must provide a model parameter" if model is None else "The value of 'model' must be a string."
        raise InvalidRequest(message, param="model")
    return body
