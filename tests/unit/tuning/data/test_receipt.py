import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.chat_tokenizers import assistant, build_tokenizer, row_line, user
from tuning.data.formats import MAX_LINE_BYTES
from tuning.data.receipt import DataError, DataReceipt, TooFewRowsError, make_receipt
from tuning.data.rendering import ChatRenderer, RenderedRow

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROW = row_line(user("Hi"), assistant("Hello"))


@pytest.fixture
def renderer(tmp_path: Path) -> ChatRenderer:
    return ChatRenderer(TEMPLATE, build_tokenizer(tmp_path), ["<|im_end|>"], 64)


def refusal(renderer: ChatRenderer, *chunks: bytes) -> DataError:
    with pytest.raises(DataError) as caught:
        make_receipt(chunks, renderer)
    return caught.value


def test_a_receipt_counts_what_will_be_trained_on(renderer: ChatRenderer) -> None:
    rows: list[RenderedRow] = []
    long_answer = row_line(user("Hi"), assistant("Hello " * 100))
    long_question = row_line(user("Hi " * 100), assistant("Hello"))
    lines = [ROW] * 8 + [long_answer, long_question, b"", long_answer]
    receipt = make_receipt([b"\n".join(lines)], renderer, rows.append)
    assert (receipt.rows, receipt.trained_rows) == (11, 10)
    assert (receipt.cut_rows, receipt.total_cut_rows) == ((9, 12), 2)
    assert (receipt.dropped_rows, receipt.total_dropped_rows) == ((10,), 1)
    assert [row.number for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 12]
    assert receipt.tokens == sum(len(row.sequences[0].input_ids) for row in rows)
    assert receipt.supervised_tokens == sum(sum(row.sequences[0].is_supervised) for row in rows)
    assert (receipt.longest_row_tokens, receipt.max_length) == (64, 64)
    assert receipt.template_sha256 == renderer.template_sha256
    assert DataReceipt.model_validate_json(receipt.model_dump_json()) == receipt
    assert receipt.summary() == (
        f"10 of 11 rows to train on: {receipt.tokens} tokens, {receipt.supervised_tokens} of them in the assistant's "
        "turns; the longest row has 64; cut at 64 tokens: rows 9, 12; left out: row 10"
    )


def test_the_digest_is_the_same_however_the_file_arrives(renderer: ChatRenderer) -> None:
    content = b"\n".join(row_line(user(f"Hi {i} äöü"), assistant("Hello")) for i in range(12))
    files = [[content[i : i + size] for i in range(0, len(content), size)] for size in (1, 7, 100, len(content))]
    dressed = b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n") + b"\r\n"
    first, *others = [make_receipt(chunks, renderer) for chunks in (*files, [dressed])]
    assert all(other == first for other in others)


def test_the_digest_changes_with_any_token_mask_or_order(renderer: ChatRenderer) -> None:
    other = row_line(user("Hi"), assistant("Hullo"))
    unmasked = row_line(user("Hi"), assistant("Hello", weight=0), user("Hi"), assistant("Hello"))
    masked = row_line(user("Hi"), assistant("Hello"), user("Hi"), assistant("Hello"))
    files = [[ROW] * 10, [ROW] * 11, [ROW] * 9 + [other], [other] + [ROW] * 9, [masked] * 10, [unmasked] * 10]
    assert len({make_receipt([b"\n".join(lines)], renderer).sha256 for lines in files}) == len(files)


def test_every_invalid_row_is_counted_and_the_first_are_told(renderer: ChatRenderer) -> None:
    bad = b'{"messages": []}'
    error = refusal(renderer, b"\n".join([ROW, bad, b"", ROW, b"{"] + [bad] * 30))
    assert error.total_errors == 32
    assert [row.row for row in error.errors[:3]] == [2, 5, 6]
    assert len(error.errors) == 20
    assert str(error).startswith("Training file has 32 invalid rows. Rows 2, 6, 7, 8, ")
    assert " and 11 more: messages: must not be empty" in str(error)
    assert "Row 5: is not valid JSON" in str(error)


def test_faults_beyond_the_first_twenty_kinds_are_counted(renderer: ChatRenderer) -> None:
    bad = [f'{{"messages": [], "key{number}": 1}}'.encode() for number in range(25)]
    text = str(refusal(renderer, b"\n".join(bad)))
    assert "key19" in text
    assert "key20" not in text
    assert text.endswith("(and 5 more)")


def test_one_invalid_row_reads_as_one(renderer: ChatRenderer) -> None:
    text = str(refusal(renderer, b"\n".join([ROW] * 10 + [b"[]"])))
    assert text.startswith("Training file has 1 invalid row. Row 11: must be an object")


def test_too_few_rows_are_told_in_openais_words(renderer: ChatRenderer) -> None:
    error = refusal(renderer, b"\n".join([ROW] * 7))
    assert isinstance(error, TooFewRowsError)
    assert str(error) == "Training file has 7 example(s), but must have at least 10 examples"


def test_a_validation_file_is_called_by_its_name(renderer: ChatRenderer) -> None:
    with pytest.raises(TooFewRowsError, match=r"^Validation file has 9 example\(s\)"):
        make_receipt([b"\n".join([ROW] * 9)], renderer, file="Validation file")


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_said_to_be_empty(content: bytes, renderer: ChatRenderer) -> None:
    assert str(refusal(renderer, content)).startswith("Training file is empty: it must have at least 10 examples")


def test_a_file_of_answers_beyond_the_context_is_refused(renderer: ChatRenderer) -> None:
    error = refusal(renderer, b"\n".join([row_line(user("Hi " * 100), assistant("Hello"))] * 10))
    assert "has no row to train on: in each, the answer starts after 64 tokens" in str(error)


def test_a_line_without_end_does_not_fill_the_memory(renderer: ChatRenderer) -> None:
    chunk = b"x" * 65536

    def endless() -> Iterator[bytes]:
        for _ in range(10 * MAX_LINE_BYTES // len(chunk)):
            yield chunk
        yield b"\n" + ROW

    tracemalloc.start()
    with pytest.raises(DataError, match=r"has 1 invalid row. Row 1: is longer than 16 MiB"):
        make_receipt(endless(), renderer)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * MAX_LINE_BYTES


def test_memory_grows_by_some_bytes_a_row_whatever_is_in_it(
    renderer: ChatRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuning.data.encoding.MAX_REMEMBERED_CHARACTERS", 1000)  # both have an end, far beyond this
    monkeypatch.setattr("tuning.data.words._MAX_REMEMBERED", 100)

    def peak(rows: int) -> int:
        lines = (row_line(user(f"Hi {i}"), assistant("Hello " * 8)) + b"\n" for i in range(rows))
        tracemalloc.start()
        make_receipt(lines, renderer)
        _, bytes_ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return bytes_

    peak(1000)  # warms the caches
    assert peak(4000) < peak(1000) + 3000 * 40
