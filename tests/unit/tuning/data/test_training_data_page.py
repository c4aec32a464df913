"""`docs/training-data.md`: its rows are read, and each of its errors is the one that such a row gets."""

import re
from pathlib import Path

import pytest

from tuning.contract import MethodName
from tuning.data.formats import RowError, parse_row
from tuning.data.rendering import ChatRenderer

ROOT = Path(__file__).parents[4]
TINY = ROOT / "base_models/fettle-tiny"
PAGE = (ROOT / "docs/training-data.md").read_text(encoding="utf-8")
EXAMPLES = [
    (method, line)
    for methods, lines in re.findall(r"```json ([a-z ]+)\n(.*?)```", PAGE, re.DOTALL)
    for line in lines.splitlines()
    for method in methods.split()
]
_, _, _RULES = PAGE.partition("\n## Every rule and its error\n")
RULES = re.findall(r"^\| (supervised|dpo|orpo|kto|reinforcement) \| `(.+?)` \| (.+) \|$", _RULES, re.MULTILINE)
SHORT = dict(re.findall(r"([A-Z]+) is\s+`(\{.*?\})`", PAGE, re.DOTALL))


@pytest.fixture(scope="module")
def renderer() -> ChatRenderer:
    return ChatRenderer((TINY / "chat_template.jinja").read_text(), TINY / "tokenizer.json", ["<|im_end|>"], 512)


def test_the_page_has_rows_and_rules() -> None:
    assert {method for method, _ in EXAMPLES} == {"supervised", "dpo", "orpo", "kto", "reinforcement"}
    headings = _RULES.count("| method | row | error |")
    assert len(RULES) == _RULES.count("\n| ") - headings > 80
    assert set(SHORT) == {"USER", "HELLO", "BYE", "CALL"}


@pytest.mark.parametrize(("method", "line"), EXAMPLES)
def test_each_example_is_trained_on(method: MethodName, line: str, renderer: ChatRenderer) -> None:
    row = renderer.render(parse_row(line.encode(), 1, method))
    assert row.dropped_because is None
    assert all(sequence.supervised_tokens for sequence in row.sequences) or method == "reinforcement"


@pytest.mark.parametrize(("method", "line", "message"), RULES)
def test_each_rule_is_told_as_it_stands_there(
    method: MethodName, line: str, message: str, renderer: ChatRenderer
) -> None:
    row = re.sub("|".join(SHORT), lambda name: SHORT[name[0]], line.replace("\\|", "|"))
    with pytest.raises(RowError) as caught:
        renderer.render(parse_row(row.encode(), 1, method))
    assert caught.value.fault == message.replace("\\|", "|")
