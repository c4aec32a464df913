"""A row of a training file and every rule it must keep; the first step of `receipt.read_rows`.

A row leaves here in one modern shape, whatever OpenAI's API allowed over the years: content is one string,
`functions` are `tools`, `function_call` is `tool_calls`, call arguments are objects. That is the shape in which vLLM
hands the same conversation to the chat template (`--chat-template-content-format string`), so both render alike.

The last message need not be the assistant's, as long as an assistant turn is trained on.
"""

import json
from typing import Any, NoReturn

import msgspec

from tuning.data.fields import FieldError, expect_list, expect_object, expect_string, json_type
from tuning.data.tools import check_function_call, check_function_name, check_functions, check_tool_calls, check_tools

MAX_LINE_BYTES = 16 * 1024 * 1024
"""So that a file without a line break cannot fill the memory. A 128k-token row has about half a megabyte."""

ROLES = ("system", "developer", "user", "assistant", "tool", "function")

_ROW_KEYS = ("messages", "tools", "parallel_tool_calls", "functions")
_EMPTY_KEYS = ("refusal", "audio", "annotations", "function_call", "tool_calls", "tool_call_id", "name", "weight")
"""Null or empty, they carry nothing: OpenAI's API writes some into every message that it answers with."""
_MESSAGE_KEYS = {
    "system": ("role", "content", "name"),
    "developer": ("role", "content", "name"),
    "user": ("role", "content", "name"),
    "assistant": ("role", "content", "name", "weight", "tool_calls", "function_call"),
    "tool": ("role", "content", "name", "tool_call_id"),
    "function": ("role", "content", "name"),
}
_OTHER_FORMATS = {
    "preferred_output": "a preference row, which the method dpo takes",
    "preferred_completion": "a preference row, which the method dpo takes",
    "completion": "a prompt/completion row",
    "prompt": "a prompt/completion row",
    "conversations": "a ShareGPT row",
    "instruction": "an Alpaca row",
    "custom_id": "a request of the Batch API",
    "text": "plain text",
}


class RowError(Exception):
    """A row cannot be trained on. `field` is its path in the row, empty for the row as a whole."""

    def __init__(self, row: int, field: str, message: str) -> None:
        super().__init__(row, field, message)
        self.row = row
        self.field = field
        self.message = message

    @property
    def fault(self) -> str:
        """What is wrong, whichever row it is."""
        return f"{self.field}: {self.message}" if self.field else self.message

    def __str__(self) -> str:
        return f"Row {self.row}: {self.fault}"


class ChatRow(msgspec.Struct, frozen=True):
    number: int
    """The line in the file, from 1."""
    messages: list[dict[str, Any]]
    is_trained: list[bool]
    """For each message: an assistant turn without weight 0. At least one is."""
    tools: list[dict[str, Any]] | None


def parse_row(line: bytes, number: int) -> ChatRow:
    """Raises RowError."""
    try:
        row = _decode(line)
        _refuse_other_formats(row)
        for key in row:
            if key not in _ROW_KEYS:
                raise FieldError(key, f"is not a known key; remove it, or use one of {', '.join(_ROW_KEYS)}")
        messages, is_trained = _check_messages(row["messages"])
        return ChatRow(number, messages, is_trained, _check_row_tools(row))
    except FieldError as error:
        raise RowError(number, error.field, error.message) from None


def _decode(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise FieldError("", f"is longer than {MAX_LINE_BYTES >> 20} MiB; write one row a line, and split long rows")
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise FieldError("", f"is not UTF-8 (byte {error.start + 1} of the row); save the file as UTF-8") from None
    try:
        row = msgspec.json.decode(text)
    except RecursionError:
        raise FieldError("", "is nested too deeply to be a chat row") from None
    except msgspec.MsgspecError as error:
        _refuse_json(text, error)
    if isinstance(row, list):
        raise FieldError("", "must be an object, but is an array; write one row a line (JSONL), not one array of rows")
    if not isinstance(row, dict):
        raise FieldError("", f"must be an object, but is {json_type(row)}")
    return row


def _refuse_json(text: str, error: msgspec.MsgspecError) -> NoReturn:
    """Says where: the standard decoder knows the position, but takes what JSON forbids (NaN, halves of surrogates)."""
    try:
        json.loads(text)
    except json.JSONDecodeError as located:
        message = f"is not valid JSON: {located.msg} at character {located.pos + 1}"
    else:
        message = f"is not valid JSON: {error}; NaN, Infinity and unpaired surrogates (\\ud800) cannot be used"
    raise FieldError("", message) from None


def _refuse_other_formats(row: dict[str, Any]) -> None:
    if "messages" in row:
        return
    for key, description in _OTHER_FORMATS.items():
        if key in row:
            raise FieldError(key, f"makes this {description}; the method supervised wants `messages`")
    raise FieldError("messages", "is required: a list of turns, each with a role and content")


def _check_row_tools(row: dict[str, Any]) -> list[dict[str, Any]] | None:
    parallel = row.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        raise FieldError("parallel_tool_calls", f"must be true or false, but is {json_type(parallel)}")
    tools, functions = row.get("tools"), row.get("functions")
    if tools and functions:
        raise FieldError("functions", "cannot stand beside `tools`, which replaced it; move them there")
    if functions is not None:
        return check_functions(functions) or None
    return None if tools is None else check_tools(tools) or None


def _check_messages(value: object) -> tuple[list[dict[str, Any]], list[bool]]:
    items = expect_list(value, "messages")
    if not items:
        raise FieldError("messages", "must not be empty: at least a user turn and an assistant turn")
    messages: list[dict[str, Any]] = []
    is_trained: list[bool] = []
    call_ids: list[str] = []
    for i, item in enumerate(items):
        field = f"messages[{i}]"
        message = _check_keys(item, field)
        checked: dict[str, Any] = {"role": message["role"], "content": _check_content(message, field)}
        match message["role"]:
            case "assistant":
                if calls := _check_calls(message, field, call_ids):
                    checked["tool_calls"] = calls
                    call_ids.extend(call["id"] for call in calls)
            case "tool":
                checked["tool_call_id"] = _check_tool_call_id(message.get("tool_call_id"), field, call_ids)
            case "function":
                check_function_name(message.get("name"), f"{field}.name")
                checked["role"] = "tool"
                checked["tool_call_id"] = _check_function_result(field, call_ids)
        if (name := message.get("name")) is not None:
            checked["name"] = expect_string(name, f"{field}.name")
        messages.append(checked)
        is_trained.append(message["role"] == "assistant" and _check_weight(message.get("weight"), field) == 1)
    if not any(message["role"] == "assistant" for message in messages):
        raise FieldError("messages", "has no assistant turn; the assistant's answers are what is trained on")
    if not any(is_trained):
        raise FieldError("messages", "has weight 0 on every assistant turn, so nothing would be trained on")
    return messages, is_trained


def _check_keys(item: object, field: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise FieldError(field, f"must be an object, but is {json_type(item)}")
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise FieldError(f"{field}.role", f"{role!r} is not one of {', '.join(ROLES)}")
    keys = _MESSAGE_KEYS[role]
    message = {key: value for key, value in item.items() if key not in _EMPTY_KEYS or value not in (None, [])}
    if "refusal" in message:
        raise FieldError(f"{field}.refusal", "cannot be trained on; put its text into `content`")
    return expect_object(message, field, keys)


def _check_content(message: dict[str, Any], field: str) -> str:
    content = message.get("content")
    field = f"{field}.content"
    if isinstance(content, str):
        return content
    if content is None:
        if message.get("tool_calls") or message.get("function_call"):
            return ""
        missing = "is required" if message["role"] != "assistant" else "is required where there are no tool_calls"
        raise FieldError(field, f"{missing}: a string, or a list of text parts")
    if not isinstance(content, list):
        raise FieldError(field, f"must be a string or a list of text parts, but is {json_type(content)}")
    if not content:
        raise FieldError(field, "must not be an empty list; write a string")
    return "\n".join(_check_text_part(part, f"{field}[{i}]") for i, part in enumerate(content))


def _check_text_part(part: object, field: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("image_url", "input_audio", "file", "image", "audio"):
        raise FieldError(f"{field}.type", f"{kind!r} is not supported: only text can be trained on so far")
    text_part = expect_object(part, field, ("type", "text"))
    if kind != "text":
        raise FieldError(f"{field}.type", f"must be 'text', but is {kind!r}")
    return expect_string(text_part.get("text"), f"{field}.text")


def _check_calls(message: dict[str, Any], field: str, call_ids: list[str]) -> list[dict[str, Any]]:
    calls, function_call = message.get("tool_calls"), message.get("function_call")
    if calls and function_call:
        raise FieldError(f"{field}.function_call", "cannot stand beside `tool_calls`, which replaced it; remove it")
    if function_call:
        # Nine letters and digits: templates that check the form of an id (Mistral's) want exactly that.
        return [check_function_call(function_call, f"{field}.function_call", f"call{len(call_ids):05d}")]
    return check_tool_calls(calls, f"{field}.tool_calls") if calls else []


def _check_tool_call_id(value: object, field: str, call_ids: list[str]) -> str:
    field = f"{field}.tool_call_id"
    if value is None:
        raise FieldError(field, "is required: the id of the tool call that this turn answers")
    call_id = expect_string(value, field)
    if call_id not in call_ids:
        raise FieldError(field, f"{call_id!r} is not the id of a tool call in an earlier assistant turn")
    return call_id


def _check_function_result(field: str, call_ids: list[str]) -> str:
    if not call_ids:
        raise FieldError(f"{field}.role", "'function' answers a function_call, and no earlier assistant turn has one")
    return call_ids[-1]


def _check_weight(value: object, field: str) -> int:
    if value is None:
        return 1
    # 1 == True == 1.0 in Python, but not in JSON
    if type(value) is not int or value not in (0, 1):
        raise FieldError(f"{field}.weight", f"must be 0 or 1, but is {json.dumps(value)}")
    return value
