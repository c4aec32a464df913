import json
from typing import Any

import pytest

from tests.fixtures.chat_tokenizers import LAMP_TOOL, assistant, row_line, system, tool_call, tool_result, user
from tuning.contract import MethodName
from tuning.data.formats import RowError, parse_row
from tuning.data.rows import ChatRow, LabelledRow, PreferenceRow, PromptRow

HI, HELLO, BYE = user("Hi"), assistant("Hello"), assistant("Bye")


def line(**row: Any) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def preference(*prompt: dict[str, Any], preferred: object, other: object, **more: Any) -> bytes:
    return line(input={"messages": prompt, **more}, preferred_output=preferred, non_preferred_output=other)


PREFERENCE = preference(HI, preferred=[HELLO], other=[BYE])
COMPLETION = line(prompt="Hi", completion="Hello")
LABELLED = row_line(HI, HELLO, label=True)
PROMPT = row_line(HI, answer="Hello")
CHAT = row_line(HI, HELLO)


def refusal(row: bytes, method: MethodName) -> str:
    with pytest.raises(RowError) as caught:
        parse_row(row, 7, method)
    assert caught.value.row == 7
    return str(caught.value)


def chat(row: object) -> ChatRow:
    assert isinstance(row, ChatRow)
    return row


def test_a_completion_is_one_question_and_its_answer() -> None:
    row = chat(parse_row(COMPLETION, 1))
    assert (row.messages, row.is_trained, row.tools) == ([HI, HELLO], [False, True], None)


def test_a_completion_of_messages_is_trained_on_its_own_turns_alone() -> None:
    row = chat(parse_row(line(prompt=[system("S"), HI, HELLO, HI], completion=[BYE]), 1))
    assert (row.messages, row.is_trained) == ([system("S"), HI, HELLO, HI, BYE], [False] * 4 + [True])


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_a_preference_is_two_conversations_that_begin_alike(method: MethodName) -> None:
    called = [assistant(tool_calls=[tool_call(room="bath")]), tool_result("ok"), HELLO]
    row = parse_row(
        preference(system("S"), HI, preferred=called, other=[BYE], tools=[LAMP_TOOL], parallel_tool_calls=True),
        3,
        method,
    )
    assert isinstance(row, PreferenceRow)
    assert row.chosen.messages[:2] == row.rejected.messages[:2] == [system("S"), HI]
    assert row.chosen.is_trained == [False, False, True, False, True]
    assert row.rejected.is_trained == [False, False, True]
    assert row.chosen.tools == row.rejected.tools == [LAMP_TOOL]
    assert (row.number, row.chosen.number, row.rejected.number) == (3, 3, 3)


def test_the_older_keys_of_a_preference_mean_the_same() -> None:
    old = line(input={"messages": [HI]}, preferred_completion=[HELLO], non_preferred_completion=[BYE])
    old_row, new_row = parse_row(old, 1, "dpo"), parse_row(PREFERENCE, 1, "dpo")
    assert isinstance(old_row, PreferenceRow) and isinstance(new_row, PreferenceRow)
    assert old_row.chosen.messages == new_row.chosen.messages
    assert old_row.rejected.messages == new_row.rejected.messages


def test_weights_that_say_what_happens_anyway_are_accepted() -> None:
    weighted = preference(HI, assistant("a", weight=0), HI, preferred=[HELLO | {"weight": 1}], other=[BYE])
    plain = preference(HI, assistant("a"), HI, preferred=[HELLO], other=[BYE])
    assert parse_row(weighted, 1, "dpo") == parse_row(plain, 1, "dpo")


def test_outputs_that_differ_in_a_type_only_are_two() -> None:
    one, other = ([assistant(tool_calls=[tool_call(on=on)])] for on in (True, 1))
    assert isinstance(parse_row(preference(HI, preferred=one, other=other), 1, "dpo"), PreferenceRow)


@pytest.mark.parametrize("label", [True, False])
def test_a_label_is_about_the_last_answer(label: bool) -> None:
    row = parse_row(row_line(HI, HELLO, HI, BYE, label=label), 2, "kto")
    assert isinstance(row, LabelledRow)
    assert row.is_desirable is label
    assert row.conversation.is_trained == [False, False, False, True]


def test_a_labelled_answer_may_call_tools_on_its_way() -> None:
    calling = assistant(tool_calls=[tool_call()])
    row = parse_row(row_line(HI, calling, tool_result("ok"), HELLO, label=True), 1, "kto")
    assert isinstance(row, LabelledRow)
    assert row.conversation.is_trained == [False, True, False, True]
    weighted = parse_row(row_line(HI, calling | {"weight": 0}, tool_result("ok"), HELLO, label=True), 1, "kto")
    assert isinstance(weighted, LabelledRow)
    assert weighted.conversation.is_trained == [False, False, False, True]


def test_a_labelled_completion_is_a_labelled_conversation() -> None:
    row = parse_row(line(prompt="Hi", completion="Hello", label=False), 1, "kto")
    assert isinstance(row, LabelledRow)
    assert (row.conversation.messages, row.is_desirable) == ([HI, HELLO], False)


def test_a_prompt_keeps_the_whole_row_for_the_grader() -> None:
    row = parse_row(
        row_line(system("S"), HI, tools=[LAMP_TOOL], answer={"b": 1, "a": [True]}, label="x"), 1, "reinforcement"
    )
    assert isinstance(row, PromptRow)
    assert (row.messages, row.tools) == ([system("S"), HI], [LAMP_TOOL])
    item = json.loads(row.item)
    assert item["answer"] == {"a": [True], "b": 1}
    assert item["messages"] == [system("S"), HI]
    assert row.item.startswith(b'{"answer":{"a":[true],"b":1},"label":"x","messages":')


def test_the_item_does_not_depend_on_how_the_row_is_written() -> None:
    one = '{"messages":[{"role":"user","content":"ä"}],"b":1.50,"a":123456789012345678901234567890}'
    other = '{ "a": 123456789012345678901234567890, "b": 1.5, "messages": [{"content": "\\u00e4", "role": "user"}] }'
    rows = [parse_row(text.encode(), 1, "reinforcement") for text in (one, other)]
    assert rows[0] == rows[1]
    assert isinstance(rows[0], PromptRow)
    assert json.loads(rows[0].item)["a"] == 123456789012345678901234567890


@pytest.mark.parametrize(
    ("row", "method", "message"),
    [
        (
            PREFERENCE,
            "supervised",
            "preferred_output: makes this a preference row, which the methods dpo and orpo take",
        ),
        (PREFERENCE, "kto", "preferred_output: makes this a preference row, which the methods dpo and orpo take"),
        (PREFERENCE, "reinforcement", "preferred_output: makes this a preference row, which the methods dpo and orpo"),
        (
            CHAT,
            "dpo",
            "messages: makes this a chat row, which the method supervised takes; the method dpo wants `input`",
        ),
        (CHAT, "orpo", "a chat row, which the method supervised takes; the method orpo wants `input`"),
        (CHAT, "kto", "label: is required: true where the answer is wanted, false where it is not"),
        (CHAT, "reinforcement", "messages[1].role: must be user in the last message, but is assistant"),
        (COMPLETION, "dpo", "completion: makes this a prompt/completion row, which the method supervised takes"),
        (
            COMPLETION,
            "reinforcement",
            "makes this a prompt/completion row, which the method supervised takes; the meth",
        ),
        (LABELLED, "supervised", "label: makes this a labelled row, which the method kto takes"),
        (LABELLED, "dpo", "label: makes this a labelled row, which the method kto takes"),
        (PROMPT, "supervised", "answer: is not a known key; remove it, or use one of messages, tools, parallel_tool_"),
        (
            PROMPT,
            "supervised",
            "rows that end with the user's turn and have keys of their own are for the method reinf",
        ),
        (row_line(HI), "supervised", "messages: has no assistant turn"),
        (PROMPT, "dpo", "messages: makes this a chat row"),
        (line(prompt="a", chosen="b", rejected="c"), "dpo", "chosen: makes this a preference row in TRL's words; the"),
        (b"{}", "dpo", "input: is required"),
        (b"{}", "kto", "label: is required"),
        (b"{}", "reinforcement", "messages: is required: a list of turns, the last one the user's"),
    ],
)
def test_rows_of_another_method_are_refused_with_the_method_that_takes_them(
    row: bytes, method: MethodName, message: str
) -> None:
    assert message in refusal(row, method)


CALLING = assistant(tool_calls=[tool_call()])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (preference(HI, preferred=[HELLO], other=[HELLO]), "non_preferred_output: says the same as the preferred one"),
        (
            preference(HI, preferred=[CALLING], other=[assistant(tool_calls=[tool_call("call00002")])]),
            "non_preferred_output: says the same as the preferred one; change one of the two, or remove the row",
        ),
        (preference(HI, preferred=[], other=[BYE]), "preferred_output: must not be empty: at least one message of the"),
        (preference(HI, preferred=[HELLO], other=[]), "non_preferred_output: must not be empty"),
        (preference(HI, preferred=[assistant(" \n")], other=[BYE]), "preferred_output[0].content: must not be empty"),
        (
            preference(HI, preferred=[HELLO], other=[assistant("")]),
            "non_preferred_output[0].content: must not be empty",
        ),
        (preference(HI, preferred="Hello", other=[BYE]), "preferred_output: must be an array, but is a string"),
        (preference(HI, preferred=HELLO, other=[BYE]), "preferred_output: must be an array, but is an object"),
        (preference(HI, preferred=None, other=[BYE]), "preferred_output: must be an array, but is null"),
        (
            preference(HI, preferred=[HI], other=[BYE]),
            "preferred_output[0].role: must be assistant or tool in an answer",
        ),
        (
            preference(HI, preferred=[HELLO, HI, BYE], other=[BYE]),
            "preferred_output[1].role: must be assistant or tool",
        ),
        (preference(HI, CALLING, preferred=[tool_result("ok"), HELLO], other=[BYE]), "[0].role: must be assistant: an"),
        (
            preference(HI, preferred=[CALLING, tool_result("ok")], other=[BYE]),
            "[1].role: must be assistant: what follow",
        ),
        (
            preference(HI, preferred=[HELLO | {"weight": 0}], other=[BYE]),
            "preferred_output[0].weight: cannot be 0 here",
        ),
        (
            preference(HI, HELLO | {"weight": 1}, HI, preferred=[HELLO], other=[BYE]),
            "input.messages[1].weight: cannot be 1",
        ),
        (preference(preferred=[HELLO], other=[BYE]), "input.messages: must not be empty"),
        (preference(HI, preferred=[HELLO], other=[BYE], tools={}), "input.tools: must be an array"),
        (preference(HI, preferred=[HELLO], other=[BYE], n=1), "input.n: is not a known key"),
        (preference(user(3), preferred=[HELLO], other=[BYE]), "input.messages[0].content: must be a string or a list"),
        (
            preference(HI, preferred=[HELLO], other=[tool_result("ok", "x")]),
            "non_preferred_output[0].tool_call_id: 'x' is",
        ),
        (
            line(input=[HI], preferred_output=[HELLO], non_preferred_output=[BYE]),
            "input: must be an object, but is an ar",
        ),
        (line(input={}, preferred_output=[HELLO], non_preferred_output=[BYE]), "input.messages: must be an array"),
        (
            line(preferred_output=[HELLO], non_preferred_output=[BYE]),
            "input: is required: an object with the `messages`",
        ),
        (line(input={"messages": [HI]}, preferred_output=[HELLO]), "non_preferred_output: is required"),
        (
            line(input={"messages": [HI]}, preferred_output=[HELLO], preferred_completion=[HELLO]),
            "preferred_completion: cannot stand beside `preferred_output`, which replaced it",
        ),
        (
            line(input={"messages": [HI]}, preferred_output=[HELLO], non_preferred_output=[BYE], score=1),
            "score: is not a known key; remove it, or use one of input, preferred_output,",
        ),
    ],
)
def test_a_preference_that_breaks_a_rule_is_refused_by_name(row: bytes, message: str) -> None:
    assert message in refusal(row, "dpo")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (row_line(HI, HELLO, label=1), "label: must be true or false, but is a number"),
        (row_line(HI, HELLO, label="true"), "label: must be true or false, but is a string"),
        (row_line(HI, HELLO, label=None), "label: must be true or false, but is null"),
        (
            row_line(HI, HELLO, HI, label=True),
            "messages: must end with the assistant's turn: the answer that the label",
        ),
        (row_line(label=True), "messages: must end with the assistant's turn"),
        (
            row_line(HI, HELLO | {"weight": 1}, HI, BYE, label=True),
            "messages[1].weight: cannot be 1 here: the label is",
        ),
        (row_line(HI, HELLO | {"weight": 0}, label=True), "messages: has weight 0 on the whole answer"),
        (row_line(HI, assistant("  "), label=False), "messages[1].content: must not be empty"),
        (
            row_line(HI, HELLO, label=True, score=1),
            "score: is not a known key; remove it, or use one of messages, tools",
        ),
        (line(prompt="a", completion="", label=True), "completion: must not be empty: there is nothing to train on"),
        (line(prompt="a", completion=["b"], label=True), "prompt: must be an array, but is a string"),
        (line(completion="b", label=True), "prompt: is required beside"),
        (line(label=True), "messages: is required: the conversation with the answer"),
    ],
)
def test_a_labelled_row_that_breaks_a_rule_is_refused_by_name(row: bytes, message: str) -> None:
    assert message in refusal(row, "kto")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (line(prompt="a", completion="\n"), "completion: must not be empty"),
        (line(prompt=["a"], completion="b"), "prompt: must be a string, but is an array"),
        (line(prompt=None, completion="b"), "prompt: must be a string, but is null"),
        (line(prompt="a", completion=3), "completion: must be a string, but is a number"),
        (line(completion="b"), "prompt: is required beside the other of `prompt` and `completion`"),
        (
            line(prompt="a", completion="b", id=1),
            "id: is not a known key; remove it, or use one of prompt, completion,",
        ),
        (line(prompt=[HI], completion=[HI]), "completion[0].role: must be assistant or tool in an answer"),
        (line(prompt=[], completion=[HELLO]), "prompt: must not be empty"),
    ],
)
def test_a_completion_that_breaks_a_rule_is_refused_by_name(row: bytes, message: str) -> None:
    assert message in refusal(row, "supervised")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (row_line(answer=1), "messages: must not be empty"),
        (line(messages="Hi"), "messages: must be an array, but is a string"),
        (row_line(system("S")), "messages[0].role: must be user in the last message, but is system"),
        (row_line(HI, CALLING, tool_result("ok")), "messages[2].role: must be user in the last message, but is tool"),
        (row_line(HI, HELLO, answer="x"), "move a reference answer to a key of its own, where the grader can read it"),
        (
            row_line(HI, HELLO | {"weight": 1}, HI),
            "messages[1].weight: cannot be 1 here: only the answers that the model",
        ),
        (row_line(HI, tools="f"), "tools: must be an array, but is a string"),
    ],
)
def test_a_prompt_that_breaks_a_rule_is_refused_by_name(row: bytes, message: str) -> None:
    assert message in refusal(row, "reinforcement")


@pytest.mark.parametrize("method", ["supervised", "dpo", "kto", "reinforcement"])
@pytest.mark.parametrize("depth", [100, 300, 600, 900, 990, 5000])
def test_deeply_nested_rows_never_cause_more_than_a_refusal(method: MethodName, depth: int) -> None:
    nested = "[" * depth + "]" * depth
    rows = [
        f'{{"messages": [{{"role": {nested}, "content": "Hi"}}]}}',
        f'{{"messages": [{{"role": "user", "content": {nested}}}], "x": {nested}, "label": {nested}}}',
        f'{{"messages": [{{"role": "assistant", "content": "a", "weight": {nested}}}], "label": true}}',
        f'{{"input": {nested}, "preferred_output": {nested}, "non_preferred_output": {nested}}}',
        f'{{"prompt": {nested}, "completion": {nested}}}',
    ]
    for row in rows:
        try:
            parse_row(row.encode(), 1, method)
        except RowError as error:
            assert len(str(error)) < 500
