"""vLLM's errors in OpenAI's words: public names for hashes and paths, no inner detail of what broke."""

import json
import re
from http import HTTPStatus
from itertools import takewhile
from typing import Any

from service.errors import ApiError, InvalidRequest, NotFound, UpstreamFailed
from service.inference.routing import ServedModel

_CONTEXT_WORDS = "maximum context length"  # vLLM's words for a prompt that does not fit


_BODY = "body."  # before the field, when pydantic refused the request inside vLLM


def translate_error(status: int, content: bytes, model: ServedModel) -> ApiError:
    """`content`: the body of an answer that is not 200."""
    try:
        error = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        error = {}
    return describe_error(status, error if isinstance(error, dict) else {}, model)


def describe_error(status: int, error: dict[str, Any], model: ServedModel) -> ApiError:
    """`error`: vLLM's own object, as it also stands in a stream that breaks."""
    if status == HTTPStatus.NOT_FOUND:
        return NotFound(_not_loadable(model), param="model", code="model_not_found")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return UpstreamFailed(f"The model '{model.public_name}' failed to answer. Try again.")
    message = str(error.get("message") or "vLLM refused the request without a reason.")
    message = message.replace(model.engine_name, model.public_name).replace(model.base.source, model.base.name)
    param = error.get("param") if isinstance(error.get("param"), str) else None
    if param is not None and param.startswith(_BODY):
        return _describe_validation(param.removeprefix(_BODY).split("."), message)
    code = "context_length_exceeded" if _CONTEXT_WORDS in message else None
    return InvalidRequest(message, param=param, code=code)


def _describe_validation(path: list[str], message: str) -> InvalidRequest:
    """vLLM lists every alternative of a union with pydantic's inner names; the field that was sent says more."""
    field = list(takewhile(lambda part: not part[:1].isupper(), path))
    param = ".".join(field)
    reason = re.search(r"'msg': (['\"])(.+?)\1", message)
    if field == path and reason is not None:
        return InvalidRequest(f"Invalid value for '{param}': {reason[2]}.", param=param)
    return InvalidRequest(f"Invalid value for '{param}'. See OpenAI's API reference for what it may be.", param=param)


def _not_loadable(model: ServedModel) -> str:
    return f"The model '{model.public_name}' cannot be loaded: its weights are missing from storage or damaged."
