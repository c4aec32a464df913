"""What a row may say about tools: their definitions, and the calls that an assistant turn makes.

Keys come out in the order in which vLLM's request models put them, because templates print whole objects as JSON.
"""

import re
from typing import Any

import msgspec

from tuning.data.fields import FieldError, expect_list, expect_object, expect_string, json_type, shorten

_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def check_tools(value: object, field: str) -> list[dict[str, Any]]:
    tools = []
    for i, item in enumerate(expect_list(value, field)):
        path = f"{field}[{i}]"
        tool = expect_object(item, path, ("type", "function"))
        _check_type(tool, path)
        tools.append(_as_tool(tool.get("function"), f"{path}.function", has_strict=True))
    return tools


def check_functions(value: object, field: str) -> list[dict[str, Any]]:
    """The key that `tools` replaced, as tools."""
    return [_as_tool(item, f"{field}[{i}]", has_strict=False) for i, item in enumerate(expect_list(value, field))]


def check_tool_calls(value: object, field: str) -> list[dict[str, Any]]:
    calls = []
    for i, item in enumerate(expect_list(value, field)):
        call = expect_object(item, f"{field}[{i}]", ("id", "type", "function"))
        call_id = expect_string(call.get("id"), f"{field}[{i}].id")
        _check_type(call, f"{field}[{i}]")
        calls.append(_as_call(call_id, call.get("function"), f"{field}[{i}].function"))
    return calls


def check_function_call(value: object, field: str, call_id: str) -> dict[str, Any]:
    """The key that `tool_calls` replaced, as a tool call."""
    return _as_call(call_id, value, field)


def check_function_name(value: object, field: str) -> str:
    name = expect_string(value, field)
    if not _FUNCTION_NAME.fullmatch(name):
        raise FieldError(field, f"{shorten(repr(name))} must be 1 to 64 letters, digits, underscores or hyphens")
    return name


def _check_type(item: dict[str, Any], field: str) -> None:
    if item.get("type") != "function":
        raise FieldError(f"{field}.type", f"must be 'function', but is {shorten(repr(item.get('type')))}")


def _as_tool(value: object, field: str, *, has_strict: bool) -> dict[str, Any]:
    keys = ("name", "description", "parameters", "strict")
    function = expect_object(value, field, keys if has_strict else keys[:-1])
    tool: dict[str, Any] = {
        "name": check_function_name(function.get("name"), f"{field}.name"),
        # Both are sent to the template even when absent: vLLM does, and templates print them.
        "description": function.get("description"),
        "parameters": function.get("parameters"),
    }
    if tool["description"] is not None:
        expect_string(tool["description"], f"{field}.description")
    if tool["parameters"] is not None and not isinstance(tool["parameters"], dict):
        raise FieldError(f"{field}.parameters", f"must be a JSON Schema object, but is {json_type(tool['parameters'])}")
    if (strict := function.get("strict")) is not None:
        if not isinstance(strict, bool):
            raise FieldError(f"{field}.strict", f"must be true or false, but is {json_type(strict)}")
        tool["strict"] = strict
    return {"type": "function", "function": tool}


def _as_call(call_id: str, value: object, field: str) -> dict[str, Any]:
    function = expect_object(value, field, ("name", "arguments"))
    name = check_function_name(function.get("name"), f"{field}.name")
    arguments = _decode_arguments(function.get("arguments"), f"{field}.arguments")
    return {"id": call_id, "function": {"arguments": arguments, "name": name}, "type": "function"}


def _decode_arguments(value: object, field: str) -> dict[str, Any]:
    """vLLM turns anything but an object into {} without a word; a row that says something else must not."""
    if not isinstance(value, str):
        raise FieldError(field, f"must be a JSON object written as a string, but is {json_type(value)}")
    try:
        arguments = msgspec.json.decode(value)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise FieldError(field, f'is not valid JSON ({error}); write "{{}}" for no arguments') from error
    if not isinstance(arguments, dict):
        raise FieldError(field, f"must hold a JSON object, but holds {json_type(arguments)}")
    return arguments
