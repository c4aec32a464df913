import json
from pathlib import Path
from typing import Any

import pytest

from service.cli.demo.questions import Answer, read_questions, share_of_exact_matches


def a_call(name: str, arguments: str) -> dict[str, Any]:
    return {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
    }


def test_calls_match_whatever_the_order_and_spacing_of_their_arguments() -> None:
    expected = Answer.from_message(a_call("set_fan", '{"room": "attic", "speed": 3}'))
    assert Answer.from_message(a_call("set_fan", '{"speed":3,"room":"attic"}')) == expected


@pytest.mark.parametrize(
    "other",
    [
        a_call("set_light", '{"room": "attic", "speed": 3}'),
        a_call("set_fan", '{"room": "attic", "speed": "3"}'),
        a_call("set_fan", '{"room": "attic", "speed": 3'),
        {"role": "assistant", "content": 'set_fan({"room": "attic", "speed": 3})'},
    ],
    ids=["another name", "another type", "broken JSON", "text"],
)
def test_what_is_not_the_same_call_does_not_match(other: dict[str, Any]) -> None:
    assert Answer.from_message(other) != Answer.from_message(a_call("set_fan", '{"room": "attic", "speed": 3}'))


def test_the_order_of_several_calls_counts() -> None:
    one, two = a_call("a", "{}"), a_call("b", "{}")
    forward = {"tool_calls": one["tool_calls"] + two["tool_calls"]}
    backward = {"tool_calls": two["tool_calls"] + one["tool_calls"]}
    assert Answer.from_message(forward) != Answer.from_message(backward)


def test_text_matches_without_its_outer_spaces() -> None:
    assert Answer.from_message({"content": " os.path \n"}) == Answer.from_message({"content": "os.path"})


def test_a_question_is_a_row_without_its_last_message(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows.write_text(json.dumps({"messages": messages}) + "\n\n", encoding="utf-8")

    (question,) = read_questions(rows)

    assert (question.text, question.messages, str(question.expected)) == ("Hi", messages[:1], "Hello")
    assert share_of_exact_matches([question], [question.expected]) == 1.0


def test_a_row_that_does_not_end_with_an_answer_is_named(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"messages": [{"role": "user", "content": "Hi"}]}), encoding="utf-8")
    with pytest.raises(ValueError, match="row 1: a question needs an assistant's message"):
        read_questions(rows)
