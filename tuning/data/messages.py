"""The messages of a row and every rule they must keep, in whichever of the row's fields they stand.

They leave here in one modern shape, whatever OpenAI's API allowed over the years: content is one string,
`function_call` is `tool_calls`, call arguments are objects. That is the shape in which vLLM hands the same conversation
to the chat template (`--chat-template-content-format string`), so both render alike.
"""

import json
from typing import Any

from tuning.data.fields import FieldError, expect_list, expect_object, expect_string, json_type, shorten
from tuning.data.tools import check_function_call, check_function_name, check_functions, check_tool_calls, check_tools

ROLES = ("system", "developer", "user", "assistant", "tool", "function")

TOOL_KEYS = ("tools", "parallel_tool_calls", "functions")
"""What may stand beside messages."""

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

MAX_MESSAGES = 2048
"""Of one list. Each trained turn is compared with its prompt, which takes time by the square of their number."""

Message = dict[str, Any]


def check_messages(value: object, field: str, earlier: list[Message]) -> tuple[list[Message], list[int | None]]:
    """The messages and, for each, the weight that is written there. `earlier` are those whose tool calls these may
    answer."""
    items = expect_list(value, field)
    if len(items) > MAX_MESSAGES:
        raise FieldError(field, f"has {len(items):,} messages; the most is {MAX_MESSAGES:,}: split the conversation")
    call_ids = [call["id"] for message in earlier for call in message.get("tool_calls", ())]
    messages: list[Message] = []
    weights: list[int | None] = []
    for i, item in enumerate(items):
        path = f"{field}[{i}]"
        message = _check_keys(item, path)
        checked: Message = {"role": message["role"], "content": _check_content(message, path)}
        match message["role"]:
            case "assistant":
                if calls := _check_calls(message, path, call_ids):
                    checked["tool_calls"] = calls
                    call_ids.extend(call["id"] for call in calls)
            case "tool":
                checked["tool_call_id"] = _check_tool_call_id(message.get("tool_call_id"), path, call_ids)
            case "function":
                check_function_name(message.get("name"), f"{path}.name")
                checked["role"] = "tool"
                checked["tool_call_id"] = _check_function_result(path, call_ids)
        if (name := message.get("name")) is not None:
            checked["name"] = expect_string(name, f"{path}.name")
        messages.append(checked)
        weights.append(_check_weight(message.get("weight"), path))
    return messages, weights


def check_row_tools(row: dict[str, Any], field: str = "") -> list[dict[str, Any]] | None:
    """The tools of `row`, an object with TOOL_KEYS among its keys that stands at `field` (with its dot)."""
    parallel = row.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        raise FieldError(f"{field}parallel_tool_calls", f"must be true or false, but is {json_type(parallel)}")
    tools, functions = row.get("tools"), row.get("functions")
    if tools and functions:
        raise FieldError(f"{field}functions", "cannot stand beside `tools`, which replaced it; move them there")
    if functions is not None:
        return check_functions(functions, f"{field}functions") or None
    return None if tools is None else check_tools(tools, f"{field}tools") or None


def _check_keys(item: object, field: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise FieldError(field, f"must be an object, but is {json_type(item)}")
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise FieldError(f"{field}.role", f"{shorten(repr(role))} is not one of {', '.join(ROLES)}")
    keys = _MESSAGE_KEYS[role]
    message = {key: value for key, value in item.items() if key not in _EMPTY_KEYS or value not in (None, [])}
    if "refusal" in message:
        raise FieldError(f"{field}.refusal", "cannot be trained on; put its text into `content`")
    return expect_object(message, field, keys)


def _check_content(message: dict[str, Any], field: str) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    field = f"{field}.content"
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
        raise FieldError(f"{field}.type", f"must be 'text', but is {shorten(repr(kind))}")
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
        raise FieldError(field, f"{shorten(repr(call_id))} is not the id of a tool call in an earlier assistant turn")
    return call_id


def _check_function_result(field: str, call_ids: list[str]) -> str:
    if not call_ids:
        raise FieldError(f"{field}.role", "'function' answers a function_call, and no earlier assistant turn has one")
    return call_ids[-1]


def _check_weight(value: object, field: str) -> int | None:
    if value is None:
        return None
    # 1 == True == 1.0 in Python, but not in JSON
    if type(value) is not int or value not in (0, 1):
        raise FieldError(f"{field}.weight", f"must be 0 or 1, but is {shorten(json.dumps(value))}")
    return value
