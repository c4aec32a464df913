"""Rendering in several processes gives what one gives, and leaves none behind."""

import codecs
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.fixtures.chat_tokenizers import LAMP_TOOL, assistant, build_tokenizer, row_line, user
from tests.fixtures.service import wait_until
from tuning.data import process_slots, row_processes
from tuning.data.receipt import DataError, DataReceipt, make_receipt, read_rows
from tuning.data.rendering import ChatRenderer, RenderedRow, RenderingError
from tuning.data.row_processes import RowProcessDied

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

pytestmark = pytest.mark.slow


@pytest.fixture
def renderer(tmp_path: Path) -> ChatRenderer:
    return ChatRenderer(TEMPLATE, build_tokenizer(tmp_path), ["<|im_end|>"], 64)


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For small files too, which they get piece by piece."""
    monkeypatch.setattr(row_processes, "OWN_BYTES", 2000)
    monkeypatch.setattr(row_processes, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(process_slots, "count_cores", lambda: 2)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where nobody else takes them


def mixed_file() -> bytes:
    """With rows that are cut, left out, repeated and blank."""
    lines = []
    for number in range(300):
        match number % 7:
            case 0:
                lines.append(row_line(user("Hi"), assistant("Hello " * 100 + str(number))))
            case 1:
                lines.append(row_line(user(f"Hi {number} " * 100), assistant("Hello")))
            case 2:
                lines.append(row_line(user("Hi"), assistant("Hello")))
            case 3:
                lines.append(b"   ")
            case _:
                lines.append(row_line(user(f"Hi ä{number}"), assistant("Hello"), user("?"), assistant("!", weight=0)))
    return b"\xef\xbb\xbf" + b"\r\n".join(lines)


def small_chunks(content: bytes) -> Iterator[bytes]:
    return (content[start : start + 333] for start in range(0, len(content), 333))


def read_file(renderer: ChatRenderer) -> tuple[DataReceipt, list[RenderedRow], list[RenderedRow]]:
    rows: list[RenderedRow] = []
    content = mixed_file()
    receipt = make_receipt(small_chunks(content), renderer, rows.append)
    return receipt, rows, list(read_rows(small_chunks(content), renderer))


def processes_at_work() -> list[psutil.Process]:
    """Other tests of this worker have children too."""
    children = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in children if "tuning.data.row_process" in child.cmdline()]


def test_rows_receipt_and_order_are_those_of_one_process(
    renderer: ChatRenderer, request: pytest.FixtureRequest
) -> None:
    alone = read_file(renderer)
    request.getfixturevalue("two_processes")
    receipt, rows, all_rows = read_file(renderer)
    assert receipt == alone[0]
    assert (rows, all_rows) == alone[1:]
    assert len(rows) < len(all_rows)
    assert make_receipt(small_chunks(mixed_file()), renderer) == receipt  # without rows, as in validation
    assert processes_at_work() == []


def test_errors_are_those_of_one_process(renderer: ChatRenderer, request: pytest.FixtureRequest) -> None:
    lines = mixed_file().split(b"\r\n")
    for number in range(5, 290, 3):
        lines[number] = row_line(user("Hi"), assistant("Hello"), tools=[LAMP_TOOL], **{f"key{number % 30}": 1})

    def refusal() -> DataError:
        with pytest.raises(DataError) as caught:
            make_receipt(small_chunks(b"\n".join(lines)), renderer)
        return caught.value

    alone = refusal()
    request.getfixturevalue("two_processes")
    together = refusal()
    assert (str(together), together.total_errors) == (str(alone), 95)
    assert [str(error) for error in together.errors] == [str(error) for error in alone.errors]


def test_what_is_wrong_with_the_base_model_is_told_from_a_process_too(
    renderer: ChatRenderer, two_processes: None, tmp_path: Path
) -> None:
    joined = TEMPLATE.replace("<|im_end|>\n", "{% if message.content != 'x' %}<|im_end|>{% endif %}\n")
    broken = ChatRenderer(joined, build_tokenizer(tmp_path), ["<|im_end|>"], 64)
    lines = [row_line(user(f"Hi {number}"), assistant("Hello")) for number in range(200)]
    with pytest.raises(RenderingError, match="none of the stop tokens"):
        make_receipt(small_chunks(b"\n".join([*lines, row_line(user("Hi"), assistant("x"))])), broken)


def test_a_process_that_is_killed_is_an_error_and_takes_the_others_along(
    renderer: ChatRenderer, two_processes: None
) -> None:
    def chunks() -> Iterator[bytes]:
        for number in range(2000):
            yield row_line(user(f"Hi {number}"), assistant("Hello")) + b"\n"
            if number == 1000:
                processes_at_work()[0].kill()

    with pytest.raises(RowProcessDied, match="ended with -9"):
        make_receipt(chunks(), renderer)
    assert processes_at_work() == []


def test_a_reader_that_stops_early_leaves_no_process(renderer: ChatRenderer, two_processes: None) -> None:
    rows = read_rows(small_chunks(mixed_file() * 20), renderer)
    assert [next(rows).number for _ in range(40)]
    assert len(processes_at_work()) == 2
    rows.close()  # type: ignore[attr-defined]
    assert processes_at_work() == []


def test_files_that_are_read_at_the_same_time_share_the_cores(renderer: ChatRenderer, two_processes: None) -> None:
    content = (mixed_file().removeprefix(codecs.BOM_UTF8) + b"\n") * 20
    first, second = (read_rows(small_chunks(content), renderer) for _ in range(2))
    numbers = [next(first).number for _ in range(40)]
    assert [next(second).number for _ in range(40)] == numbers
    assert len(processes_at_work()) == 2
    assert sum(1 for _ in first) == sum(1 for _ in second) > 4000
    with process_slots.taken_slots() as count:
        assert count == 2


def test_lock_files_of_somebody_else_are_left_alone(two_processes: None, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / f"fettle-rows-{os.getuid()}-0.lock").symlink_to(tmp_path / "elsewhere")
    with process_slots.taken_slots() as count:
        assert count == 1


def test_a_container_has_as_many_cores_as_it_may_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(process_slots, "_CPU_QUOTA", quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    found = []
    for content in ("max 100000\n", "250000 100000\n", "5000 100000\n"):
        quota.write_text(content)
        found.append(process_slots.count_cores())
    assert found == [16, 3, 1]


_ENDLESS = """
import itertools, pickle, sys
from tuning.data import process_slots, row_processes
from tuning.data.receipt import make_receipt
row_processes.OWN_BYTES = 0
process_slots.count_cores = lambda: 2
renderer, line = pickle.load(sys.stdin.buffer)
make_receipt(itertools.repeat(line + b"\\n"), renderer, lambda row: None)
"""


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def test_processes_end_with_the_one_that_is_killed(renderer: ChatRenderer, tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", _ENDLESS], stdin=subprocess.PIPE, env=environment)
    try:
        assert parent.stdin is not None
        parent.stdin.write(pickle.dumps((renderer, row_line(user("Hi"), assistant("Hello")))))
        parent.stdin.close()
        found: list[psutil.Process] = []

        def are_at_work() -> bool:
            found[:] = psutil.Process(parent.pid).children()
            return len(found) == 2 and all(sum(child.cpu_times()[:2]) > 1 for child in found)

        wait_until(are_at_work, 60, "no processes were started")
        for child in found:
            os.kill(child.pid, signal.SIGTERM)  # as the whole group gets it: they wait for the word of the parent
        assert all(map(is_alive, found))
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not any(map(is_alive, found)), 30, "a process outlived its parent")
