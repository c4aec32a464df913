import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from service.batches import input_check
from service.batches.input_check import check_input
from service.batches.input_lines import MAX_LINE_BYTES, LineSplitter

CHAT = "/v1/chat/completions"


def request(number: int, **body: Any) -> bytes:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]} | body
    return json.dumps({"custom_id": f"id-{number}", "method": "POST", "url": CHAT, "body": body}).encode()


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_lines_are_the_same_however_the_chunks_fall(size: int) -> None:
    content = b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"b": "\xc3\xa4"}\n{"c": 3}'
    splitter = LineSplitter()
    lines = [line for start in range(0, len(content), size) for line in splitter.feed(content[start : start + size])]
    lines += splitter.end()
    assert [(line.index, line.number, line.content) for line in lines] == [
        (0, 1, b'{"a": 1}'),
        (1, 4, b'{"b": "\xc3\xa4"}'),
        (2, 5, b'{"c": 3}'),
    ]


def test_a_good_file_is_counted_with_its_model() -> None:
    report = check_input([request(1) + b"\n\n" + request(2) + b"\n"], CHAT)
    assert (report.total, report.model, report.model_line, report.errors) == (2, "tiny", 1, [])


def test_a_file_of_as_many_requests_as_may_be_is_good_and_one_more_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_check, "MAX_REQUESTS", 3)
    lines = [request(number) + b"\n" for number in range(4)]
    assert check_input(lines[:3], CHAT).errors == []
    [error] = check_input(lines, CHAT).errors
    assert (error.code, error.line) == ("too_many_tasks", 4)


@pytest.mark.parametrize(("length", "codes"), [(MAX_LINE_BYTES, []), (MAX_LINE_BYTES + 1, ["invalid_request"])])
def test_a_line_is_as_long_as_a_request_may_be(length: int, codes: list[str]) -> None:
    line = request(1, user="")
    line = line.replace(b'"user": ""', b'"user": "' + b"x" * (length - len(line)) + b'"')
    assert [error.code for error in check_input([line], CHAT).errors] == codes


@pytest.mark.parametrize(("length", "codes"), [(512, []), (513, ["invalid_custom_id"])])
def test_a_custom_id_is_at_most_512_characters_long(length: int, codes: list[str]) -> None:
    line = request(1).replace(b"id-1", b"\\u00e4" * length)
    assert [error.code for error in check_input([line], CHAT).errors] == codes


def test_a_file_without_a_line_break_is_read_in_constant_memory() -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * 1_000_000

    tracemalloc.start()
    report = check_input(endless(), CHAT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [error.code for error in report.errors] == ["invalid_request"]
    assert peak < 4 * MAX_LINE_BYTES


def test_every_fault_of_a_line_is_told() -> None:
    line = json.dumps({"custom_id": "", "method": "PUT", "url": "/v1/x", "body": {"stream": True}, "more": 1}).encode()
    assert [(error.code, error.param) for error in check_input([line], CHAT).errors] == [
        ("unknown_parameter", "more"),
        ("invalid_method", "method"),
        ("invalid_url", "url"),
        ("invalid_custom_id", "custom_id"),
        ("invalid_request", "body.model"),
        ("invalid_request", "body.messages"),
        ("streaming_unsupported", "body.stream"),
    ]
