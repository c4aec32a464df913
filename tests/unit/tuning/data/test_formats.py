import json
from typing import Any

import pytest

from tests.fixtures.chat_tokenizers import LAMP_TOOL, assistant, row_line, system, tool_call, tool_result, user
from tuning.data.formats import MAX_LINE_BYTES, RowError, parse_row

HI, HELLO = user("Hi"), assistant("Hello")


def refusal(line: bytes) -> str:
    with pytest.raises(RowError) as caught:
        parse_row(line, 7)
    assert caught.value.row == 7
    return str(caught.value)


def test_a_plain_conversation_is_read() -> None:
    row = parse_row(row_line(system("Be brief."), HI, HELLO), 3)
    assert row.number == 3
    assert row.messages == [system("Be brief."), HI, HELLO]
    assert row.is_trained == [False, False, True]
    assert row.tools is None


def test_weights_decide_which_turns_are_trained_on() -> None:
    row = parse_row(row_line(HI, assistant("a", weight=0), HI, assistant("b", weight=1), HI, assistant("c")), 1)
    assert row.is_trained == [False, False, False, True, False, True]
    assert all("weight" not in message for message in row.messages)


def test_a_row_may_end_with_another_turn_than_the_assistants() -> None:
    assert parse_row(row_line(HI, HELLO, user("Thanks")), 1).is_trained == [False, True, False]


def test_text_parts_become_one_string_as_vllm_joins_them() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert parse_row(row_line(user(parts), HELLO), 1).messages[0]["content"] == "a\nb"


def test_tool_calls_come_out_as_vllm_hands_them_to_templates() -> None:
    row = parse_row(
        row_line(HI, assistant(tool_calls=[tool_call(room="bath", on=True)]), tool_result("ok"), tools=[LAMP_TOOL]), 1
    )
    function = {"arguments": {"room": "bath", "on": True}, "name": "set_lamp"}
    call = {"id": "call00001", "function": function, "type": "function"}
    assert json.dumps(row.messages[1]) == json.dumps({"role": "assistant", "content": "", "tool_calls": [call]})
    assert row.messages[2] == tool_result("ok")
    assert row.tools == [LAMP_TOOL]


def test_absent_parts_of_a_tool_are_null_because_templates_print_them() -> None:
    tools = [{"function": {"name": "f", "strict": False}, "type": "function"}]
    expected = {"type": "function", "function": {"name": "f", "description": None, "parameters": None, "strict": False}}
    assert json.dumps(parse_row(row_line(HI, HELLO, tools=tools), 1).tools) == json.dumps([expected])


def test_the_old_function_keys_become_tools_and_tool_calls() -> None:
    old = row_line(
        HI,
        assistant(function_call={"name": "set_lamp", "arguments": '{"room": "bath"}'}),
        {"role": "function", "name": "set_lamp", "content": "ok"},
        HELLO,
        functions=[LAMP_TOOL["function"]],
    )
    new = row_line(
        HI,
        assistant(tool_calls=[tool_call("call00000", room="bath")]),
        tool_result("ok", "call00000") | {"name": "set_lamp"},
        HELLO,
        tools=[LAMP_TOOL],
    )
    assert parse_row(old, 1) == parse_row(new, 1)


def test_what_the_api_writes_into_its_own_answers_is_accepted_when_empty() -> None:
    emitted = assistant("Hello", refusal=None, audio=None, annotations=[], function_call=None, tool_calls=None)
    assert parse_row(row_line(HI, emitted), 1) == parse_row(row_line(HI, HELLO), 1)
    empty = row_line(HI, HELLO, tools=[], functions=None, parallel_tool_calls=None)
    assert parse_row(empty, 1) == parse_row(row_line(HI, HELLO), 1)


def test_names_reach_the_template() -> None:
    assert parse_row(row_line(user("Hi", name="ann"), HELLO), 1).messages[0] == user("Hi", name="ann")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"messages": [', "Row 7: is not valid JSON: Expecting value at character 15"),
        (b'{"messages" []}', "Row 7: is not valid JSON: Expecting ':' delimiter at character 13"),
        (b'{"messages": NaN}', "NaN"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "unpaired surrogates"),
        (b'{"a": "\xff"}', "Row 7: is not UTF-8 (byte 8 of the row); save the file as UTF-8"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"[{}]", "not one array of rows"),
        (b"3", "must be an object, but is a number"),
        (b" " * (MAX_LINE_BYTES + 1), "is longer than 16 MiB"),
        (b"{}", "messages: is required"),
        (b'{"prompt": "a"}', "completion: is required beside the other"),
        (b'{"text": "a"}', "plain text; the method supervised wants `messages`, or `prompt` and `completion`"),
        (b'{"conversations": []}', "ShareGPT"),
        (b'{"messages": {}}', "messages: must be an array, but is an object"),
        (b'{"messages": []}', "messages: must not be empty"),
        (b'{"messages": ["hi"]}', "messages[0]: must be an object, but is a string"),
    ],
)
def test_a_line_that_is_no_chat_row_is_refused(line: bytes, message: str) -> None:
    assert message in refusal(line)


CALLING = assistant(tool_calls=[tool_call()])


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([HI], "messages: has no assistant turn"),
        ([HI, assistant("a", weight=0)], "messages: has weight 0 on every assistant turn"),
        ([{"role": "usr", "content": "Hi"}, HELLO], "messages[0].role: 'usr' is not one of system, developer, user"),
        ([{"content": "Hi"}, HELLO], "messages[0].role: None is not one of"),
        ([{"role": ["user"], "content": "Hi"}, HELLO], "messages[0].role: ['user'] is not one of"),
        ([{"role": "user"}, HELLO], "messages[0].content: is required"),
        ([user(None), HELLO], "messages[0].content: is required"),
        ([user(3), HELLO], "messages[0].content: must be a string or a list of text parts, but is a number"),
        ([user([]), HELLO], "messages[0].content: must not be an empty list"),
        ([user(["a"]), HELLO], "messages[0].content[0]: must be an object, but is a string"),
        ([user([{"type": "text"}]), HELLO], "messages[0].content[0].text: must be a string, but is null"),
        ([user([{"type": "image_url"}]), HELLO], "'image_url' is not supported: only text"),
        ([user([{"type": "txt", "text": "a"}]), HELLO], "content[0].type: must be 'text', but is 'txt'"),
        ([user("Hi", weight=0), HELLO], "messages[0].weight: is not a known key"),
        ([user("Hi", mood="good"), HELLO], "messages[0].mood: is not a known key; remove it, or use one of role,"),
        ([HI, HELLO] * 1025, "messages: has 2,050 messages; the most is 2,048: split the conversation"),
        ([{"role": "x" * 200, "content": "Hi"}, HELLO], f"messages[0].role: '{'x' * 99}… is not one of"),
        ([user("Hi", name=3), HELLO], "messages[0].name: must be a string, but is a number"),
        ([HI, assistant()], "messages[1].content: is required where there are no tool_calls"),
        ([HI, assistant("a", weight=2)], "messages[1].weight: must be 0 or 1, but is 2"),
        ([HI, assistant("a", weight=True)], "messages[1].weight: must be 0 or 1, but is true"),
        ([HI, assistant("a", weight=0.5)], "messages[1].weight: must be 0 or 1, but is 0.5"),
        ([HI, assistant(refusal="No.")], "messages[1].refusal: cannot be trained on"),
        ([HI, assistant("a", audio={"id": "x"})], "messages[1].audio: is not a known key"),
        ([HI, assistant("a", reasoning="hm")], "messages[1].reasoning: is not a known key"),
        ([HI, CALLING, {"role": "tool", "content": "ok"}], "messages[2].tool_call_id: is required"),
        ([HI, CALLING, tool_result("ok", "other")], "messages[2].tool_call_id: 'other' is not the id of a tool call"),
        ([tool_result("ok"), CALLING], "messages[0].tool_call_id: 'call00001' is not the id"),
        ([HI, HELLO, {"role": "function", "name": "f", "content": "ok"}], "messages[2].role: 'function' answers"),
        ([HI, assistant(tool_calls="f")], "messages[1].tool_calls: must be an array, but is a string"),
        ([HI, assistant(tool_calls=[{}])], "messages[1].tool_calls[0].id: must be a string, but is null"),
        ([HI, assistant(tool_calls=[tool_call() | {"type": "x"}])], "tool_calls[0].type: must be 'function'"),
        ([HI, assistant(tool_calls=[tool_call() | {"index": 0}])], "tool_calls[0].index: is not a known key"),
        ([HI, assistant(tool_calls=[tool_call(name="a b")])], "function.name: 'a b' must be 1 to 64 letters"),
        ([HI, assistant(tool_calls=[tool_call()], function_call={"name": "f"})], "cannot stand beside `tool_calls`"),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused_by_name(messages: list[dict[str, Any]], message: str) -> None:
    assert message in refusal(row_line(*messages))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"a": 1}, "must be a JSON object written as a string, but is an object"),
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("[]", "must hold a JSON object, but holds an array"),
        ('{"a": NaN}', "is not valid JSON"),
    ],
)
def test_call_arguments_must_be_an_object_in_a_string(arguments: object, message: str) -> None:
    call = tool_call() | {"function": {"name": "f", "arguments": arguments}}
    text = refusal(row_line(HI, assistant(tool_calls=[call])))
    assert "messages[1].tool_calls[0].function.arguments: " in text
    assert message in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"metadata": {}}, "metadata: is not a known key; remove it, or use one of messages, tools,"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls: must be true or false, but is a number"),
        ({"tools": {}}, "tools: must be an array, but is an object"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type: must be 'function', but is None"),
        ({"tools": [{"type": "function"}]}, "tools[0].function: must be an object, but is null"),
        ({"tools": [{"type": "function", "function": {"name": "f.g"}}]}, "tools[0].function.name: 'f.g' must be"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters: must be a JSON Schema object, but is an array",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": "yes"}}]},
            "tools[0].function.strict: must be true or false, but is a string",
        ),
        ({"functions": [{"name": "f", "strict": True}]}, "functions[0].strict: is not a known key"),
        ({"functions": [{"name": "f"}], "tools": [LAMP_TOOL]}, "functions: cannot stand beside `tools`"),
    ],
)
def test_keys_beside_the_messages_are_checked(more: dict[str, Any], message: str) -> None:
    assert message in refusal(row_line(HI, HELLO, **more))
