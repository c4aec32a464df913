"""What an input file must be. The codes and, where they are known, the words are those of OpenAI's own service."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from service.batches.input_lines import MAX_LINE_BYTES, Line, LineSplitter, NotJson, decode_line

MAX_REQUESTS = 50_000
MAX_CUSTOM_ID_CHARACTERS = 512
MAX_LISTED_ERRORS = 100
MAX_SHOWN_CHARACTERS = 100  # of a value from the file, in the message that refuses it

_KEYS = {"custom_id": str, "method": str, "url": str, "body": dict}
_TYPE_WORDS = {str: "a string", dict: "an object", list: "an array"}
_NEEDED_IN_BODY = {"/v1/chat/completions": ("messages", (list,)), "/v1/completions": ("prompt", (str, list))}
_ENDPOINT_NAMES = {"/v1/chat/completions": "Chat Completions", "/v1/completions": "Completions"}


@dataclass(frozen=True)
class InputError:
    code: str
    message: str
    param: str | None = None
    line: int | None = None


@dataclass
class InputReport:
    total: int = 0
    """Requests in the file."""
    model: str | None = None
    """The one model of all of them."""
    model_line: int | None = None
    """Where it was first named."""
    errors: list[InputError] = field(default_factory=list)
    """The first of them; a last one says how many more there are."""


def check_input(chunks: Iterable[bytes], endpoint: str) -> InputReport:
    report = InputReport()
    seen: set[bytes] = set()
    total_errors = 0
    for line in _lines(chunks):
        if line.index >= MAX_REQUESTS:
            message = f"The file has more than {MAX_REQUESTS:,} requests. Split it into several batches."
            report.errors.append(InputError("too_many_tasks", message, line=line.number))
            return report
        report.total += 1
        for error in _check_line(line, endpoint, report, seen):
            total_errors += 1
            if total_errors <= MAX_LISTED_ERRORS:
                report.errors.append(error)
    if total_errors > MAX_LISTED_ERRORS:
        message = f"There are {total_errors - MAX_LISTED_ERRORS:,} more errors in this file."
        report.errors.append(InputError("too_many_errors", message))
    if report.total == 0:
        report.errors.append(InputError("empty_file", "The file has no requests. Write one a line (JSONL)."))
    return report


def _lines(chunks: Iterable[bytes]) -> Iterator[Line]:
    splitter = LineSplitter()
    for chunk in chunks:
        yield from splitter.feed(chunk)
    yield from splitter.end()


def _check_line(line: Line, endpoint: str, report: InputReport, seen: set[bytes]) -> Iterator[InputError]:
    def error(code: str, message: str, param: str | None = None) -> InputError:
        return InputError(code, message, param, line.number)

    if len(line.content) > MAX_LINE_BYTES:
        yield error("invalid_request", f"This line is longer than {MAX_LINE_BYTES >> 20} MiB.")
        return
    try:
        request = decode_line(line)
    except NotJson:
        if line.content.startswith((b"[", b'"')):
            yield error("invalid_json_line", "This line must be one JSON object: write one request a line (JSONL).")
        else:
            yield error("invalid_json_line", "This line is not parseable as valid JSON.")
        return
    for name in request:
        if name not in _KEYS:
            message = f"Unknown parameter: '{_shown(name)}'. A request has {', '.join(_KEYS)}."
            yield error("unknown_parameter", message, _shown(name))
    well_formed = True
    for name, kind in _KEYS.items():
        if name not in request:
            well_formed = False
            yield error("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
        elif not isinstance(request[name], kind):
            well_formed = False
            yield error("invalid_type", f"Invalid type for '{name}': expected {_TYPE_WORDS[kind]}.", name)
    if not well_formed:
        return
    if request["method"] != "POST":
        yield error("invalid_method", "The method of every request must be 'POST'.", "method")
    if request["url"] != endpoint:
        yield error("invalid_url", "The URL provided for this request does not match the batch endpoint.", "url")
    for code, message, param in _check_custom_id(request["custom_id"], seen):
        yield error(code, message, param)
    for code, message, param in _check_body(request["body"], endpoint, report, line):
        yield error(code, message, param)


def _check_custom_id(custom_id: str, seen: set[bytes]) -> Iterator[tuple[str, str, str]]:
    if not 1 <= len(custom_id) <= MAX_CUSTOM_ID_CHARACTERS:
        message = f"'custom_id' must have between 1 and {MAX_CUSTOM_ID_CHARACTERS} characters."
        yield "invalid_custom_id", message, "custom_id"
        return
    digest = hashlib.blake2b(custom_id.encode(), digest_size=16).digest()  # the ids themselves could be 100 MB
    if digest in seen:
        message = (
            f"The custom_id '{_shown(custom_id)}' for this request is a duplicate of another request. "
            "The custom_id parameter must be unique for each request in a batch."
        )
        yield "duplicate_custom_id", message, "custom_id"
    seen.add(digest)


def _check_body(body: dict[str, Any], endpoint: str, report: InputReport, line: Line) -> Iterator[tuple[str, str, str]]:
    model = body.get("model")
    if model is None or model == "":
        yield "invalid_request", "Model parameter is required.", "body.model"
    elif not isinstance(model, str):
        yield "invalid_type", "Invalid type for 'body.model': expected a string.", "body.model"
    elif report.model is None:
        report.model, report.model_line = model, line.number
    elif model != report.model:
        message = (
            f"The model '{_shown(model)}' for this request does not match the rest of the batch. "
            "Each batch must contain requests for a single model."
        )
        yield "mismatched_model", message, "body.model"
    name, kinds = _NEEDED_IN_BODY[endpoint]
    if body.get(name) is None:
        yield "invalid_request", f"{name.capitalize()} parameter is required.", f"body.{name}"
    elif not isinstance(body[name], kinds):
        words = " or ".join(_TYPE_WORDS[kind] for kind in kinds)
        yield "invalid_type", f"Invalid type for 'body.{name}': expected {words}.", f"body.{name}"
    # vLLM would take "yes" and 1 for true
    if body.get("stream") not in (None, False) or body.get("stream_options") is not None:
        param = "body.stream" if body.get("stream") not in (None, False) else "body.stream_options"
        message = f"{_ENDPOINT_NAMES[endpoint]}: Streaming is not supported in the Batch API."
        yield "streaming_unsupported", message, param


def _shown(value: str) -> str:
    return value if len(value) <= MAX_SHOWN_CHARACTERS else f"{value[:MAX_SHOWN_CHARACTERS]}…"
