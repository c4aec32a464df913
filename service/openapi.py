"""The API's description in OpenAPI's words: `openapi/openapi.yaml`, a test fails when the committed file is another."""

from collections.abc import Callable, Iterator
from typing import Any, get_args

import yaml
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.api_route import LIMITED, ApiRoute, depends_on
from service.auth import Admin, Writer
from service.openapi_errors import ERROR_SCHEMA, RESPONSES, response_name
from service.openapi_examples import PATH_PARAMETERS, complete, example_of

_DESCRIPTION = """\
Fettle is a self-hosted fine-tuning service with OpenAI's own API: files in, LoRA adapters out, served by vLLM. Any
OpenAI client works with it; give it this server's address as `base_url`, with `/v1` at its end.

**Keys.** `Authorization: Bearer KEY`, or the header `api-key: KEY` as Azure's clients send it. A key belongs to a
project, and sees what is in it and nothing else. `OpenAI-Organization` and `OpenAI-Project` choose, for keys that open
more than one; for others they must name the key's own.

**Errors** are `{"error": {"message", "type", "param", "code"}}`, all four keys present. A field or query parameter that
does not exist is refused, not ignored. OpenAI's SDKs repeat requests that were answered with 408, 409, 429 or 5xx,
unless the answer has `x-should-retry: false`.

**Headers.** Every answer has `x-request-id`, under which the server's log tells more, `openai-processing-ms` and
`openai-version`; once it is known who asks, also `openai-organization` and `openai-project`.

**Lists** are newest first and are walked with `after=<last id>` until `has_more` is false. A deleted object stays a
valid cursor.

**Repeating a request.** A POST that makes or changes something takes an `Idempotency-Key` of up to 255 characters. For
24 hours the same request with the same key gets the first one's answer, with `idempotent-replayed: true`, and makes
nothing a second time; another request with that key is refused with 409. A request that was refused leaves its key
free. An answer that showed a secret is not kept: its repetition is refused with 409.

**Azure's clients** find the same operations under `/openai` and `/openai/v1`, completions also under
`/openai/deployments/{model}/…`, where the model of the path is the one that answers. `api-version` and `trainingType`
are accepted and change nothing.
"""

_TAGS = [
    {"name": "Fine-tuning", "description": "Jobs, their events and checkpoints, and who may use what they made."},
    {"name": "Files", "description": "Training data, batch input, and what jobs and batches leave behind."},
    {"name": "Uploads", "description": "Large files, in parts that may be sent at once."},
    {"name": "Graders", "description": "What scores an answer; tried here before a job uses it."},
    {"name": "Models", "description": "Base models of this server and what was tuned from them."},
    {"name": "Inference", "description": "Completions of base models, fine-tuned models and checkpoints."},
    {"name": "Batches", "description": "Files of requests, answered within a day."},
    {"name": "Webhooks", "description": "Tells your server when a job or batch has ended."},
    {"name": "Projects and keys", "description": "Who may do what. They need an admin key."},
]

_SERVERS = [
    {"url": "/", "description": "The server that this description comes from."},
    {"url": "http://127.0.0.1:8000", "description": "`fettle serve` on this machine."},
]

_HEADERS = {
    "x-request-id": {"description": "Names this request in the server's log.", "schema": {"type": "string"}},
    "openai-processing-ms": {"description": "How long the server took.", "schema": {"type": "string"}},
    "openai-version": {"schema": {"type": "string", "const": "2020-10-01"}},
}

_IDEMPOTENCY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[ -~]{1,255}$", "maxLength": 255},
    "description": "Makes it safe to send this request again: see the introduction.",
}


def render(app: FastAPI) -> str:
    return yaml.dump(describe(app), Dumper=_NoAliases, sort_keys=False, allow_unicode=True, width=120)


def describe(app: FastAPI) -> dict[str, Any]:
    used = {tag for route in _routes(app) for tag in route.tags}
    described = get_openapi(
        title=app.title,
        version=app.version,
        description=_DESCRIPTION,
        routes=app.routes,
        tags=[tag for tag in _TAGS if tag["name"] in used],
        servers=_SERVERS,
    )
    for schema in described["components"]["schemas"].values():
        for example in schema.get("examples", []):
            complete(schema, example, described["components"]["schemas"])
    for route in _routes(app):
        for method in route.methods:
            operation = described["paths"][route.path_format][method.lower()]
            _complete(operation, route, method)
            _add_examples(operation, described["components"]["schemas"])
    components = described["components"]
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    components["schemas"]["Error"] = ERROR_SCHEMA
    components["responses"] = RESPONSES
    components["headers"] = _HEADERS
    return described


def _routes(app: FastAPI) -> Iterator[ApiRoute]:
    return (route for route in app.routes if isinstance(route, ApiRoute) and route.include_in_schema)


def _complete(operation: dict[str, Any], route: ApiRoute, method: str) -> None:
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI documents its own, which this service never answers
    for response in responses.values():
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS}
    for status in _error_statuses(operation, route, method):
        responses.setdefault(str(status), {"$ref": f"#/components/responses/{response_name(status)}"})
    if method == "POST" and route.takes_idempotency_key:
        operation.setdefault("parameters", []).append(_IDEMPOTENCY_PARAMETER)


def _add_examples(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path" and parameter["name"] in PATH_PARAMETERS:
            parameter["description"], parameter["example"] = PATH_PARAMETERS[parameter["name"]]
    bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
    for media in (body.get("content", {}).get("application/json") for body in bodies):
        if media is not None:
            media.setdefault("example", example_of(media["schema"], schemas))


def _error_statuses(operation: dict[str, Any], route: ApiRoute, method: str) -> list[int]:
    body = operation.get("requestBody", {}).get("content", {})
    found = {
        400: True,
        401: True,
        403: any(depends_on(route.dependant, _dependency(role)) for role in (Writer, Admin)),
        404: bool(route.dependant.path_params) or "Inference" in route.tags,
        409: method == "POST" and route.takes_idempotency_key,
        413: bool(body),
        416: "206" in operation["responses"],
        429: LIMITED in operation,
        500: True,
        502: "Inference" in route.tags,
        503: True,
        507: "multipart/form-data" in body,
    }
    return [status for status, is_possible in found.items() if is_possible]


def _dependency(role: Any) -> Callable[..., Any]:
    found: Callable[..., Any] = get_args(role)[1].dependency
    return found


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True
