"""The error answers of the API's description: one for each status, with a real example."""

from http import HTTPStatus
from typing import Any

ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string", "description": "What is wrong, where, and what to do."},
                "type": {
                    "type": "string",
                    "enum": ["invalid_request_error", "rate_limit_error", "server_error"],
                    "description": "Whose fault it is.",
                },
                "param": {"type": ["string", "null"], "description": "The field it is about."},
                "code": {"type": ["string", "null"], "description": "The kind of error, for programs."},
            },
        }
    },
}


def _response(
    description: str,
    message: str,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
    headers: tuple[str, ...] = (),
) -> dict[str, Any]:
    example = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id",)}
        | {name: {"description": _HEADERS[name], "schema": {"type": "string"}} for name in headers},
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}, "example": example}},
    }


_HEADERS = {
    "retry-after": "Seconds.",
    "x-should-retry": "`false`: OpenAI's SDKs then do not repeat the request.",
}

_BY_STATUS: dict[int, dict[str, Any]] = {
    400: _response(
        "The request cannot be carried out as it is; the message says why, and what to change.",
        "-42 is less than the minimum of 1 - 'n_epochs'",
        param="method.supervised.hyperparameters.n_epochs",
    ),
    401: _response(
        "There is no key, or it is wrong, revoked or expired, or the organization or project is not the key's.",
        "Incorrect API key provided: sk-***x7Qd.",
        code="invalid_api_key",
    ),
    403: _response(
        "The key's role does not suffice.",
        "You have insufficient permissions for this operation: it needs a key with the role 'writer', and yours has "
        "'reader'.",
        code="insufficient_permissions",
    ),
    404: _response(
        "There is no such object, or it is another project's, which is never told apart.",
        "No such File object: file-3bs0p4nJaVgKqpwiteP20A",
        param="id",
    ),
    409: _response(
        "The `Idempotency-Key` was used for another request, or for one whose answer showed a secret.",
        "The Idempotency-Key 'b1c2' was used for another request in the last 24 hours. Take a new key for a new "
        "request, or send the same request again.",
        code="idempotency_key_in_use",
        headers=("x-should-retry",),
    ),
    413: _response(
        "The body is larger than the limit.",
        "The body of your request is larger than the limit of 1,048,576 bytes. Send less; files go to /v1/files or "
        "/v1/uploads.",
    ),
    416: _response(
        "The range begins behind the end.",
        "The range begins behind the end of the content, which has 1,024 bytes.",
        param="range",
    ),
    429: _response(
        "As many of these are under way as may be at once.",
        "An estimate of this project is being made already; there is one at a time. Try again in a moment.",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        headers=("retry-after",),
    ),
    500: _response(
        "A bug of the server. Its log tells more under the request's id.",
        "The server had an error while processing your request. It is logged under this x-request-id.",
        kind="server_error",
    ),
    502: _response(
        "The model failed to answer.", "The model 'fettle-tiny' failed to answer. Try again.", kind="server_error"
    ),
    503: _response(
        "The database, the storage or the model cannot be reached at the moment.",
        "The server's database does not answer at the moment; nothing was kept of this request.",
        kind="server_error",
        code="database_unavailable",
        headers=("retry-after",),
    ),
    507: _response(
        "The server's storage is full.",
        "The server's storage is full; nothing was kept of this request. Free some space, then retry.",
        kind="server_error",
        code="storage_full",
        headers=("x-should-retry",),
    ),
}


def response_name(status: int) -> str:
    """`NotFound` for 404."""
    return HTTPStatus(status).name.replace("_", " ").title().replace(" ", "")


RESPONSES = {response_name(status): response for status, response in _BY_STATUS.items()}
