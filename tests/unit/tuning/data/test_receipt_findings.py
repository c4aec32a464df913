"""What a receipt tells about the rows: counts, samples, and findings that name them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.chat_tokenizers import (
    LAMP_TOOL,
    assistant,
    build_tokenizer,
    row_line,
    system,
    tool_call,
    tool_result,
    user,
)
from tuning.contract import MethodName
from tuning.data.findings import MAX_LISTED_ROWS, Finding
from tuning.data.receipt import DataError, DataReceipt, make_receipt
from tuning.data.rendering import ChatRenderer, RenderedRow

TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LONG = "Hello " * 100


@pytest.fixture
def renderer(tmp_path: Path) -> ChatRenderer:
    return ChatRenderer(TEMPLATE, build_tokenizer(tmp_path), ["<|im_end|>"], 256)


def numbered_rows(count: int) -> list[bytes]:
    return [row_line(user(f"Hi {number}"), assistant(f"Hello {number}")) for number in range(count)]


def receipt_of(renderer: ChatRenderer, lines: Sequence[bytes], method: MethodName = "supervised") -> DataReceipt:
    return make_receipt([b"\n".join(lines)], renderer, method=method)


def finding_of(receipt: DataReceipt, code: str) -> Finding:
    [finding] = [finding for finding in receipt.findings if finding.code == code]
    return finding


def test_clean_rows_give_no_findings(renderer: ChatRenderer) -> None:
    receipt = receipt_of(renderer, numbered_rows(12))
    assert receipt.findings == ()
    assert (receipt.version, receipt.method) == (2, "supervised")


def test_percentiles_are_lengths_of_rows(renderer: ChatRenderer) -> None:
    lines = [row_line(user("Hi"), assistant("Hello " * (number + 1))) for number in range(20)]
    rows: list[RenderedRow] = []
    receipt = make_receipt([b"\n".join(lines)], renderer, rows.append)
    lengths, supervised = (sorted(row.tokens for row in rows), sorted(row.supervised_tokens for row in rows))
    for percentiles, values in ((receipt.row_tokens, lengths), (receipt.row_supervised_tokens, supervised)):
        assert percentiles is not None
        assert percentiles.model_dump() == {
            "min": values[0],
            "p50": values[9],
            "p90": values[17],
            "p99": values[19],
            "max": values[19],
        }


def test_rows_that_repeat_others_are_named_with_the_first_of_their_kind(renderer: ChatRenderer) -> None:
    lines = numbered_rows(12)
    lines[6] = lines[2]
    lines[9] = json.dumps(json.loads(lines[2]), indent=None, separators=(" , ", " : ")).encode()
    lines[10] = row_line(user("Hi 2"), assistant("Hello 2"), user("more"), assistant("no", weight=0))
    receipt = receipt_of(renderer, lines)
    finding = finding_of(receipt, "duplicate_rows")
    assert (finding.level, finding.rows, finding.other_rows) == ("warning", (7, 10, 11), (3, 3, 3))
    assert (finding.total_rows, receipt.total_duplicate_rows) == (3, 3)
    assert "row 7 repeats row 3, row 10 repeats row 3" in finding.message


def test_many_repeated_rows_are_counted_and_the_first_are_listed(renderer: ChatRenderer) -> None:
    finding = finding_of(receipt_of(renderer, [*numbered_rows(5), *numbered_rows(1) * 1500]), "duplicate_rows")
    assert finding.total_rows == 1500
    assert finding.rows == tuple(range(6, 6 + MAX_LISTED_ROWS))
    assert finding.message.endswith("and 1,480 more.")


def test_rows_that_are_cut_or_left_out_are_named(renderer: ChatRenderer) -> None:
    lines = numbered_rows(12)
    lines[3] = row_line(user("Hi"), assistant(LONG))
    lines[5] = row_line(user(LONG), assistant("Hello"))
    receipt = receipt_of(renderer, lines)
    assert finding_of(receipt, "truncated_rows").rows == (4,)
    dropped = finding_of(receipt, "dropped_rows")
    assert (dropped.rows, dropped.reason) == ((6,), "the answer starts after 256 tokens")
    assert {finding.level for finding in receipt.findings} == {"warning"}


def test_rows_whose_every_answer_is_empty_are_an_error(renderer: ChatRenderer) -> None:
    lines = numbered_rows(12)
    lines[4] = lines[7] = row_line(user("Hi"), assistant(""))
    lines[8] = row_line(user("Hi"), assistant(""), user("Hi?"), assistant("Hello"))  # one of two
    lines[9] = row_line(user("Hi"), assistant(tool_calls=[tool_call()]), tools=[LAMP_TOOL])
    with pytest.raises(DataError, match="has nothing to learn from in rows 5, 8: every answer that is trained on is"):
        receipt_of(renderer, lines)


def test_supervised_turns_are_counted_with_their_stop_tokens(renderer: ChatRenderer) -> None:
    lines = numbered_rows(10)
    lines[0] = row_line(user("Hi"), assistant("one"), user("Hi"), assistant("two", weight=0), user("?"), assistant("3"))
    assert (receipt_of(renderer, lines).supervised_turns, receipt_of(renderer, lines).stopped_turns) == (11, 11)
    lines[1] = row_line(user("Hi"), assistant("Hello"), user("Hi"), assistant(LONG))
    receipt = receipt_of(renderer, lines)
    assert (receipt.supervised_turns, receipt.stopped_turns) == (12, 11)


def test_roles_and_tools_are_counted(renderer: ChatRenderer) -> None:
    lines = numbered_rows(10)
    called = assistant(tool_calls=[tool_call("call00001", on=True), tool_call("call00002", on=False)])
    results = [tool_result("done", "call00001"), tool_result("done", "call00002")]
    other = {"type": "function", "function": {"name": "never_called"}}
    lines[0] = row_line(
        system("Be kind."), user("On, off"), called, *results, assistant("Ok"), tools=[LAMP_TOOL, other]
    )
    lines[1] = row_line(user("Hi"), assistant("Hello"), tools=[LAMP_TOOL])
    receipt = receipt_of(renderer, lines)
    assert receipt.roles == {"system": 1, "user": 10, "assistant": 11, "tool": 2}
    assert [tool.model_dump() for tool in receipt.tools] == [
        {"name": "set_lamp", "rows": 2, "calls": 2},
        {"name": "never_called", "rows": 1, "calls": 0},
    ]


def test_a_file_of_ever_new_tools_lists_the_first_hundred(renderer: ChatRenderer) -> None:
    lines = [
        row_line(user(f"Hi {i}"), assistant("Hello"), tools=[{"type": "function", "function": {"name": f"tool_{i}"}}])
        for i in range(1200)
    ]
    receipt = receipt_of(renderer, lines)
    assert (len(receipt.tools), receipt.unlisted_tools) == (100, 900)  # of a thousand that are counted


def test_samples_show_the_shortest_a_median_and_the_longest_row_with_the_mask(renderer: ChatRenderer) -> None:
    lines = [row_line(user("Hi"), assistant("Hello " * (number % 30 + 1) + str(number))) for number in range(60)]
    lines[20] = row_line(user("Hi"), assistant("x"))
    lines[40] = row_line(user("Hi"), assistant("yes " * 55), user("More"), assistant("Done"))
    rows: dict[int, RenderedRow] = {}
    receipt = make_receipt([b"\n".join(lines)], renderer, lambda row: rows.__setitem__(row.number, row))
    shortest, median, longest = receipt.samples
    assert [(each.which, each.row) for each in (shortest, longest)] == [("shortest", 21), ("longest", 41)]
    assert receipt.row_tokens is not None
    assert median.which == "median"
    assert abs(median.tokens - receipt.row_tokens.p50) < 12
    assert (shortest.tokens, shortest.supervised_tokens) == (rows[21].tokens, rows[21].supervised_tokens)
    [sequence] = shortest.sequences
    assert [(piece.text, piece.is_supervised) for piece in sequence.pieces] == [
        ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", False),
        ("x<|im_end|>", True),
        ("\n", False),
    ]
    for sample in receipt.samples:
        assert sum(piece.tokens for piece in sample.sequences[0].pieces) == sample.tokens
    assert receipt_of(renderer, lines).samples == receipt.samples


def test_samples_of_long_rows_are_bounded(tmp_path: Path) -> None:
    renderer = ChatRenderer(TEMPLATE, build_tokenizer(tmp_path), ["<|im_end|>"], 100_000)
    turns = [turn for number in range(100) for turn in (user(f"{number}"), assistant("no"))]
    answer = "begin " + "word " * 9000 + "end"
    receipt = receipt_of(renderer, [*numbered_rows(10), row_line(*turns, user("Hi"), assistant(answer))])
    [sequence] = receipt.samples[-1].sequences
    assert (len(sequence.pieces), sequence.left_out_pieces) == (20, 183)
    last = sequence.pieces[-2]
    assert last.is_shortened
    assert last.text.startswith("begin word")
    assert last.text.endswith("end<|im_end|>")
    assert len(receipt.model_dump_json()) < 20_000
    spaces = receipt_of(renderer, [row_line(user("Hi"), assistant(" " * 5000 + f"{i}")) for i in range(10)])
    assert len(spaces.model_dump_json()) < 20_000


def preference(chosen: str, rejected: str, **more: Any) -> bytes:
    row = {
        "input": {"messages": [user("Hi")]},
        "preferred_output": [assistant(chosen)],
        "non_preferred_output": [assistant(rejected)],
    }
    return json.dumps(row | more).encode()


def test_preferences_are_counted_by_answer(renderer: ChatRenderer) -> None:
    lines = [preference(f"Hello {number}", "no " * (number + 1)) for number in range(12)]
    lines[5] = preference(LONG + "a", LONG + "b")
    rows: list[RenderedRow] = []
    receipt = make_receipt([b"\n".join(lines)], renderer, rows.append, method="dpo")
    assert receipt.preferences is not None
    wanted, other = (sorted(row.sequences[i].supervised_tokens for row in rows) for i in (0, 1))
    assert (receipt.preferences.preferred_tokens.min, receipt.preferences.preferred_tokens.max) == (
        wanted[0],
        wanted[-1],
    )
    assert (receipt.preferences.non_preferred_tokens.min, receipt.preferences.non_preferred_tokens.p50) == (
        other[0],
        other[5],
    )
    assert finding_of(receipt, "dropped_rows").rows == (6,)  # both are cut to the same tokens
    assert receipt.roles == {"user": 11, "assistant": 22}
    assert [each.answer for each in receipt.samples[0].sequences] == ["preferred", "non_preferred"]
    assert receipt.longest_row_tokens == max(len(each.input_ids) for row in rows for each in row.sequences)


def labelled(number: int, *, is_wanted: bool) -> bytes:
    return row_line(user(f"Hi {number}"), assistant("Hello"), label=is_wanted)


def test_labels_are_counted_and_a_file_with_one_label_is_told(renderer: ChatRenderer) -> None:
    lines = [labelled(number, is_wanted=number < 8) for number in range(12)]
    receipt = receipt_of(renderer, lines, "kto")
    assert receipt.labels is not None
    assert (receipt.labels.wanted, receipt.labels.unwanted) == (8, 4)
    assert receipt.findings == ()
    lines = [labelled(number, is_wanted=False) for number in range(12)]
    finding = finding_of(receipt_of(renderer, lines, "kto"), "one_label")
    assert "has the label false in every row" in finding.message
    assert finding.total_rows == 12


def test_items_are_counted_by_their_keys(renderer: ChatRenderer) -> None:
    lines = [row_line(user(f"Hi {number}"), answer=str(number)) for number in range(10)]
    lines.append(row_line(user("Hi"), answer="x", hint="y", tools=[LAMP_TOOL]))
    receipt = receipt_of(renderer, lines, "reinforcement")
    assert receipt.item_keys == {"answer": 11, "hint": 1}
    assert (receipt.supervised_tokens, receipt.supervised_turns) == (0, 0)
    assert receipt.row_supervised_tokens is not None  # all zero
    assert "in the assistant's turns" not in receipt.summary()
    assert receipt.findings == ()


def test_a_receipt_of_release_0_1_can_be_read() -> None:
    old = {
        "rows": 12,
        "trained_rows": 12,
        "tokens": 300,
        "supervised_tokens": 100,
        "longest_row_tokens": 30,
        "cut_rows": [],
        "total_cut_rows": 0,
        "dropped_rows": [],
        "total_dropped_rows": 0,
        "template_sha256": "1" * 64,
        "max_length": 64,
        "sha256": "2" * 64,
    }
    receipt = DataReceipt.model_validate(old)
    assert (receipt.version, receipt.findings, receipt.samples, receipt.row_tokens) == (1, (), (), None)
    assert receipt.summary().startswith("12 of 12 rows to train on")
    assert DataReceipt.model_validate(old | {"what_the_next_release_adds": 1}) == receipt


def test_a_receipt_survives_its_json(renderer: ChatRenderer) -> None:
    receipt = receipt_of(renderer, numbered_rows(12) * 2)
    assert DataReceipt.model_validate_json(receipt.model_dump_json()) == receipt
