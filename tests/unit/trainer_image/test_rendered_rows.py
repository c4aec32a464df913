"""What the trainer makes of a training file: one table for each kind of row."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from tests.fixtures.chat_templates import CHATML
from tests.fixtures.chat_tokenizers import assistant, build_tokenizer, user
from tests.fixtures.rows import to_jsonl
from trainer_image import data
from trainer_image.collation import IGNORED_LABEL
from trainer_image.data import load_rows
from trainer_image.errors import TrainingFailed
from tuning.contract import DataSpec, ErrorCode, MethodName
from tuning.data.formats import parse_row
from tuning.data.receipt import make_receipt
from tuning.data.rendering import ChatRenderer, RenderedSequence

LONG = "Hi " * 200
CHATS = [{"messages": [user(f"Hi {i}"), assistant("Hello " * i)]} for i in range(1, 13)]
COMPLETIONS = [{"prompt": f"Hi {i}", "completion": "Hello"} for i in range(3)]
PREFERENCES = [
    {"input": {"messages": [user(f"Hi {i}")]}, "preferred_output": [assistant("Hello " * i)]}
    | {"non_preferred_output": [assistant("Bye")]}
    for i in range(1, 13)
]
LABELLED = [row | {"label": i % 3 == 0} for i, row in enumerate(CHATS)]
PROMPTS = [{"messages": [user(f"Hi {i}")], "answer": {"b": "ä\0", "a": i}} for i in range(12)]


@pytest.fixture
def renderer(tmp_path: Path) -> ChatRenderer:
    return ChatRenderer(CHATML, build_tokenizer(tmp_path / "tokenizer"), ["<|im_end|>"], 64)


def describe(folder: Path, rows: list[dict[str, Any]], renderer: ChatRenderer, method: MethodName) -> DataSpec:
    path = folder / "rows.jsonl"
    path.write_bytes(to_jsonl(rows))
    receipt = make_receipt([path.read_bytes()], renderer, min_rows=1, method=method)
    return DataSpec(uri=path.as_uri(), receipt_sha256=receipt.sha256, rows=receipt.rows)


def load(folder: Path, rows: list[dict[str, Any]], renderer: ChatRenderer, method: MethodName) -> Dataset:
    spec = describe(folder, rows, renderer, method)
    return load_rows(spec, renderer, folder / "rows.arrow", "training_file", method)[0]


def expected(row: dict[str, Any], renderer: ChatRenderer, method: MethodName) -> tuple[RenderedSequence, ...]:
    return renderer.render(parse_row(json.dumps(row).encode(), 1, method)).sequences


def assert_same(ids: np.ndarray, labels: np.ndarray, sequence: RenderedSequence) -> None:
    assert ids.dtype.kind == labels.dtype.kind == "i"
    assert ids.tolist() == sequence.input_ids.tolist()
    pairs = zip(sequence.input_ids, sequence.is_supervised, strict=True)
    assert labels.tolist() == [token if is_supervised else IGNORED_LABEL for token, is_supervised in pairs]


@pytest.mark.parametrize("rows_per_write", [data.ROWS_PER_WRITE, 5])
def test_chats_and_completions_lie_in_one_table(
    rows_per_write: int, renderer: ChatRenderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "ROWS_PER_WRITE", rows_per_write)
    rows = CHATS + COMPLETIONS
    table = load(tmp_path, rows, renderer, "supervised")
    assert table.column_names == ["input_ids", "labels"]
    assert len(table) == len(rows)
    for example, row in zip(table, rows, strict=True):
        assert_same(example["input_ids"], example["labels"], *expected(row, renderer, "supervised"))


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_of_a_preference_both_conversations_lie_beside_each_other(
    method: MethodName, renderer: ChatRenderer, tmp_path: Path
) -> None:
    table = load(tmp_path, PREFERENCES, renderer, method)
    assert table.column_names == ["chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels"]
    for example, row in zip(table, PREFERENCES, strict=True):
        chosen, rejected = expected(row, renderer, method)
        assert_same(example["chosen_input_ids"], example["chosen_labels"], chosen)
        assert_same(example["rejected_input_ids"], example["rejected_labels"], rejected)


def test_a_label_lies_beside_its_conversation(renderer: ChatRenderer, tmp_path: Path) -> None:
    table = load(tmp_path, LABELLED, renderer, "kto")
    assert table.column_names == ["input_ids", "labels", "is_desirable"]
    assert [bool(example["is_desirable"]) for example in table] == [row["label"] for row in LABELLED]
    for example, row in zip(table, LABELLED, strict=True):
        assert_same(example["input_ids"], example["labels"], *expected(row, renderer, "kto"))


@pytest.mark.parametrize("bytes_per_write", [data.BYTES_PER_WRITE, 100])
def test_of_a_prompt_the_row_is_kept_for_the_grader(
    bytes_per_write: int, renderer: ChatRenderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "BYTES_PER_WRITE", bytes_per_write)
    table = load(tmp_path, PROMPTS, renderer, "reinforcement")
    assert table.column_names == ["input_ids", "item"]
    for example, row in zip(table, PROMPTS, strict=True):
        assert example["input_ids"].tolist() == expected(row, renderer, "reinforcement")[0].input_ids.tolist()
        assert json.loads(str(example["item"])) == row


@pytest.mark.parametrize(
    ("method", "rows", "long"),
    [
        ("supervised", CHATS, {"messages": [user(LONG), assistant("a")]}),
        ("kto", LABELLED, {"messages": [user(LONG), assistant("a")], "label": True}),
        ("reinforcement", PROMPTS, {"messages": [user(LONG)], "answer": 1}),
        (
            "dpo",
            PREFERENCES,
            {
                "input": {"messages": [user(LONG)]},
                "preferred_output": [assistant("a")],
                "non_preferred_output": [assistant("b")],
            },
        ),
    ],
)
def test_rows_that_nothing_can_be_learned_from_are_left_out(
    method: MethodName, rows: list[dict[str, Any]], long: dict[str, Any], renderer: ChatRenderer, tmp_path: Path
) -> None:
    spec = describe(tmp_path, [long, *rows, long], renderer, method)
    table, receipt = load_rows(spec, renderer, tmp_path / "rows.arrow", "training_file", method)
    assert (len(table), receipt.trained_rows, receipt.rows) == (len(rows), len(rows), len(rows) + 2)
    assert receipt.dropped_rows == (1, len(rows) + 2)


def test_rows_of_another_method_are_refused_by_name(renderer: ChatRenderer, tmp_path: Path) -> None:
    spec = describe(tmp_path, CHATS, renderer, "supervised")
    with pytest.raises(TrainingFailed, match="a chat row, which the method supervised takes") as caught:
        load_rows(spec, renderer, tmp_path / "rows.arrow", "training_file", "dpo")
    assert caught.value.error.code is ErrorCode.INVALID_TRAINING_FILE


@pytest.mark.parametrize("method", ["dpo", "kto", "reinforcement"])
def test_what_is_trained_on_is_in_the_digest(method: MethodName, renderer: ChatRenderer, tmp_path: Path) -> None:
    changed: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "dpo": (PREFERENCES[1], PREFERENCES[1] | {"non_preferred_output": [assistant("By")]}),
        "kto": (LABELLED[1], LABELLED[1] | {"label": not LABELLED[1]["label"]}),
        "reinforcement": (PROMPTS[1], PROMPTS[1] | {"answer": 2}),
    }
    digests = {describe(tmp_path, [row] * 10, renderer, method).receipt_sha256 for row in changed[method]}
    assert len(digests) == 2
