"""Every error a client can see, and how it is rendered: OpenAI's error body, all four keys present.

    ApiError
    ├── InvalidRequest          400
    ├── AuthenticationError     401
    ├── PermissionDenied        403
    ├── NotFound                404
    ├── MethodNotAllowed        405
    ├── Conflict                409, not to be retried
    ├── PayloadTooLarge         413
    ├── RangeNotSatisfiable     416
    ├── TooManyRequests         429, with Retry-After
    ├── HeadersTooLarge         431
    ├── InsufficientStorage     507
    ├── UpstreamFailed          502
    └── Unavailable             503, with Retry-After

Rules raise these and know no request. Anything else that is raised is a bug: it is logged with its trace and answered
with 500 and no detail.
"""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route

from service.object_storage.base import StorageFull, StorageUnavailable

log = logging.getLogger(__name__)

MAX_SHOWN_CHARACTERS = 100  # of a value that a client sent, in the message that refuses it

CLIENT_CLOSED_REQUEST = 499  # nginx's word for a client that left; nobody reads it but the log


class ApiError(Exception):
    status: ClassVar[HTTPStatus]
    type: ClassVar[str] = "invalid_request_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message.encode(errors="replace").decode()  # it may quote half a surrogate pair
        self.param = param
        if code is not None:
            self.code = code

    @property
    def headers(self) -> Mapping[str, str]:
        return {}

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(ApiError):
    status = HTTPStatus.BAD_REQUEST


class AuthenticationError(ApiError):
    status = HTTPStatus.UNAUTHORIZED
    code = "invalid_api_key"


class PermissionDenied(ApiError):
    status = HTTPStatus.FORBIDDEN


class NotFound(ApiError):
    status = HTTPStatus.NOT_FOUND


class MethodNotAllowed(ApiError):
    status = HTTPStatus.METHOD_NOT_ALLOWED


class Conflict(ApiError):
    status = HTTPStatus.CONFLICT

    @property
    def headers(self) -> Mapping[str, str]:
        return {"x-should-retry": "false"}  # the SDKs would retry every 409


class PayloadTooLarge(ApiError):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class RangeNotSatisfiable(ApiError):
    status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE

    def __init__(self, size: int) -> None:
        super().__init__(f"The range begins behind the end of the content, which has {size:,} bytes.", param="range")
        self.size = size

    @property
    def headers(self) -> Mapping[str, str]:
        return {"content-range": f"bytes */{self.size}"}


class TooManyRequests(ApiError):
    status = HTTPStatus.TOO_MANY_REQUESTS
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds

    @property
    def headers(self) -> Mapping[str, str]:
        return {"retry-after": str(self.retry_after_seconds)}


class HeadersTooLarge(ApiError):
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


class _ServerError(ApiError):
    type = "server_error"


class InsufficientStorage(_ServerError):
    status = HTTPStatus.INSUFFICIENT_STORAGE
    code = "storage_full"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"x-should-retry": "false"}  # the SDKs retry every 5xx; a full disk stays full


class UpstreamFailed(_ServerError):
    status = HTTPStatus.BAD_GATEWAY


class Unavailable(_ServerError):
    status = HTTPStatus.SERVICE_UNAVAILABLE

    def __init__(self, message: str, *, retry_after_seconds: int, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_seconds = retry_after_seconds

    @property
    def headers(self) -> Mapping[str, str]:
        return {"retry-after": str(self.retry_after_seconds)}


def install_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _render_api_error)
    app.add_exception_handler(RequestValidationError, _render_validation_error)
    app.add_exception_handler(HTTPException, _render_http_exception)
    app.add_exception_handler(StorageFull, _render_storage_full)
    app.add_exception_handler(StorageUnavailable, _render_storage_unavailable)
    for no_database in (OperationalError, InterfaceError, NoConnectionFree):
        app.add_exception_handler(no_database, _render_database_unavailable)
    app.add_exception_handler(ClientDisconnect, _render_to_nobody)


def _answer(request: Request, error: ApiError) -> JSONResponse:
    request.state.error_code = error.code or error.type  # for the metrics and the log
    return render(error)


def render(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, status_code=error.status, headers=dict(error.headers))


async def _render_api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return _answer(request, error)


async def _render_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return _answer(request, describe_validation_errors(error.errors(), error.body))


def describe_validation_errors(errors: Sequence[Any], body: object) -> InvalidRequest:
    """The first of pydantic's errors in OpenAI's words: `-42 is less than the minimum of 1 - 'n_epochs'`."""
    error = errors[0]
    path = _field_path(error, body)
    name = next((part for part in reversed(path) if not part.isdigit()), "body")  # a list's, not its entry's number
    alternatives = [
        other["ctx"]["expected"]
        for other in errors
        if other["type"] == "literal_error" and _field_path(other, body) == path
    ]
    return InvalidRequest(_validation_message(error, name, alternatives), param=".".join(path) or None)


def _field_path(error: Mapping[str, Any], body: object) -> list[str]:
    """The names that the client wrote: pydantic's own words for the members of a union are no fields."""
    place, *parts = error["loc"]
    if place != "body":
        return [str(part) for part in parts]
    path, value = [], body
    for index, part in enumerate(parts):
        if (isinstance(value, Mapping) and part in value) or (isinstance(value, list) and isinstance(part, int)):
            value = value[part]
        elif not (error["type"] == "missing" and index == len(parts) - 1):
            continue
        path.append(str(part))
    return path[:-1] if error["loc"][-1] == "[key]" else path


def _validation_message(error: Mapping[str, Any], name: str, alternatives: Sequence[str]) -> str:
    value, context = _shortened(error.get("input")), error.get("ctx", {})
    match error["type"]:
        case "missing":
            return f"Missing required parameter: '{name}'."
        case "extra_forbidden":
            return f"Unknown parameter: '{name}'."
        case "json_invalid":
            return f"We could not parse the JSON body of your request: {context.get('error', 'it is not valid JSON')}."
        case "int_type" | "int_from_float" | "int_parsing" | "int_parsing_size" | "float_type" | "float_parsing":
            kind = "a number" if error["type"].startswith("float") else "an integer"
            return f"{value} is not {' or '.join([kind, *alternatives])} - '{name}'"
        case "greater_than_equal":
            return f"{value} is less than the minimum of {context['ge']:.15g} - '{name}'"
        case "less_than_equal":
            return f"{value} is greater than the maximum of {context['le']:.15g} - '{name}'"
        case "greater_than":
            return f"{value} is less than or equal to the minimum of {context['gt']:.15g} - '{name}'"
        case "literal_error" | "enum":
            return f"{value} is not one of {context['expected']} - '{name}'"
        case "string_too_long":
            return f"{value} is too long - '{name}' has at most {context['max_length']} characters"
        case "string_too_short":
            return f"{value} is too short - '{name}' has at least {context['min_length']} characters"
        case "model_attributes_type" | "dict_type" | "model_type":
            return f"The value of '{name}' must be a JSON object."
        case _:
            return f"Invalid value for '{name}': {error['msg']}."


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}…"


async def _render_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {_shortened_path(request)}"
    if error.status_code == HTTPStatus.NOT_FOUND:
        return _answer(request, NotFound(f"Invalid URL ({where})"))
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"Not allowed to {request.method} on {_shortened_path(request)}"
        rendered = _answer(request, MethodNotAllowed(message))
        rendered.headers["allow"] = ", ".join(sorted(_methods_at(request)))
        return rendered
    return _answer(request, InvalidRequest(f"{where}: {error.detail}"))


def _shortened_path(request: Request) -> str:
    path = request.url.path
    return path if len(path) <= MAX_SHOWN_CHARACTERS else f"{path[:MAX_SHOWN_CHARACTERS]}…"


def _methods_at(request: Request) -> set[str]:
    """Of all routes with the path of the first one that matches: Starlette names those of that one only."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in matching if route.path == matching[0].path for method in route.methods or ()}


async def _render_storage_full(request: Request, error: Exception) -> JSONResponse:
    log.error("storage is full: %s", error)
    message = "The server's storage is full; nothing was kept of this request. Free some space, then retry."
    return _answer(request, InsufficientStorage(message))


async def _render_storage_unavailable(request: Request, error: Exception) -> JSONResponse:
    log.error("storage does not answer: %s", error)
    message = "The server's object storage does not answer at the moment; nothing was kept of this request."
    return _answer(request, Unavailable(message, retry_after_seconds=5, code="storage_unavailable"))


async def _render_database_unavailable(request: Request, error: Exception) -> JSONResponse:
    log.error("the database does not answer: %s", getattr(error, "orig", error))
    message = "The server's database does not answer at the moment; nothing was kept of this request."
    return _answer(request, Unavailable(message, retry_after_seconds=5, code="database_unavailable"))


async def _render_to_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def render_crash() -> JSONResponse:
    """For anything that is not an ApiError: no detail of ours goes out."""
    body = {
        "error": {
            "message": "The server had an error while processing your request. It is logged under this x-request-id.",
            "type": "server_error",
            "param": None,
            "code": None,
        }
    }
    return JSONResponse(body, status_code=HTTPStatus.INTERNAL_SERVER_ERROR)
