"""Hostile code in the real sandbox: it reaches nothing, it ends in time, and nothing of it stays."""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.fixtures.environment import missing
from tests.fixtures.service import wait_until
from tuning.graders import sandbox_probe
from tuning.graders.failure import GradingFailed
from tuning.graders.sample import Sample
from tuning.graders.sandbox import Sandbox, SandboxLimits, available_packages

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = SandboxLimits(time=timedelta(seconds=20), memory_bytes=512 * 1024**2)
SHORT = SandboxLimits(time=timedelta(seconds=1), memory_bytes=512 * 1024**2)


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("service-data") / "fettle.db"
    path.write_text("secret")
    path.chmod(0o644)
    return path


async def make_sandbox(limits: SandboxLimits, *private: Path) -> Sandbox:
    if shutil.which("bwrap") is None:
        missing("bubblewrap: install the package 'bubblewrap'")
    sandbox = Sandbox(limits, private)
    assert await sandbox.refusal() is None
    return sandbox


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(secret: Path) -> Sandbox:
    return await make_sandbox(LIMITS, secret.parent, Path.home())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def short(secret: Path) -> AsyncIterator[Sandbox]:
    yield await make_sandbox(SHORT)


def grading(*lines: str) -> str:
    return "import os, sys\ndef grade(sample, item):\n" + "".join(f"    {line}\n" for line in lines)


async def run(sandbox: Sandbox, source: str, **item: Any) -> float:
    return await sandbox.run(source, {"sample": {"output_text": "lamp"}, "item": item})


async def failure(sandbox: Sandbox, source: str, **item: Any) -> str:
    with pytest.raises(GradingFailed) as failed:
        await run(sandbox, source, **item)
    assert failed.value.flag == "python_grader_runtime_error"
    return failed.value.detail


@pytest.mark.parametrize(
    ("line", "reward"),
    [
        ("return float(sample['output_text'] == item['label'])", 1.0),
        ("print('seen by nobody'); return 0.5", 0.5),
        ("return 1", 1.0),
        ("return -2.5", -2.5),
        ("open('/tmp/a', 'w').write('x' * 1000); return len(open('/tmp/a').read())", 1000.0),
        ("import json, re, math, dataclasses, datetime; return math.pi", 3.141592653589793),
    ],
)
async def test_a_grader_returns_its_reward(sandbox: Sandbox, line: str, reward: float) -> None:
    assert await run(sandbox, grading(line), label="lamp") == reward


async def test_the_example_of_openais_guide_runs(sandbox: Sandbox) -> None:
    source = (
        "from rapidfuzz import fuzz, utils\n\n"
        "def grade(sample, item) -> float:\n"
        "    reference_answer = item['reference_answer']\n"
        "    return fuzz.WRatio(sample['output_text'], reference_answer, processor=utils.default_process) / 100.0\n"
    )
    assert await run(sandbox, source, reference_answer="Lamp!") == 1.0


@pytest.mark.parametrize("package", available_packages())
async def test_the_packages_that_are_promised_can_be_imported(sandbox: Sandbox, package: str) -> None:
    assert await run(sandbox, f"import {package}\n" + grading("return 1.0")) == 1.0


@pytest.mark.parametrize(
    ("source", "mentions"),
    [
        (grading("return 'x'"), "must return a float, not str"),
        (grading("return None"), "not NoneType"),
        (grading("return True"), "not bool"),
        (grading("return 1j"), "not complex"),
        (grading("return float('nan')"), "not finite"),
        (grading("return float('inf')"), "not finite"),
        (grading("return 10 ** 400"), "too large"),
        (grading("raise ValueError('my reason')"), "ValueError: my reason (line 3)"),
        (grading("sys.exit(0)"), "SystemExit: 0"),
        (grading("os._exit(0)"), "before it returned a reward"),
        (grading("import ctypes; ctypes.string_at(0)"), "before it returned a reward"),
        (grading("class E(BaseException):", "    def __str__(self): raise self", "raise E"), "E (line 5)"),
        ("import sys\nsys.exit(0)", "SystemExit: 0 (line 2)"),
        ("def grade(sample): return 1.0", "two arguments"),
        ("async def grade(sample, item): return 1.0", "not coroutine"),
        ("grade = 1.0", "no function 'grade'"),
        ("", "no function 'grade'"),
        ("def grade(", "SyntaxError"),
        ("(" * 10_000, "SyntaxError"),
        ("x = \0", "null bytes"),
        ("import pandas\n" + grading("return 1.0"), "No module named 'pandas' (line 1)"),
        ("import tuning\n" + grading("return 1.0"), "No module named 'tuning'"),
        ("import service\n" + grading("return 1.0"), "No module named 'service'"),
    ],
)
async def test_code_that_gives_no_reward_is_told_why(sandbox: Sandbox, source: str, mentions: str) -> None:
    assert mentions in await failure(sandbox, source)


@pytest.mark.parametrize(
    "line",
    [
        "return open('/etc/shadow').read()",
        "return open('/etc/passwd').read()",
        "return open(item['secret']).read()",
        "return os.listdir(os.path.dirname(item['secret']))",
        "return os.listdir('/proc')",
        "return os.listdir('/home')",
        "return os.listdir('/root')",
        "return os.listdir('/var')",
        "return open('/dev/mem', 'rb').read(1)",
        "return open('/file', 'w').write('x')",
        "return open('/usr/lib/mine', 'w').write('x')",
        "return open('/python/lib/file', 'w').write('x')",
        "return open('/packages/file.py', 'w').write('x')",
        "return open('/dev/file', 'w').write('x')",
        "import socket; socket.socket()",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import socket; socket.socketpair()",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1')",
        "os.fork()",
        "import subprocess; subprocess.run(['/python/bin/python3', '-c', ''])",
        "import threading; threading.Thread(target=print).start()",
        "import multiprocessing; multiprocessing.Process(target=print).start()",
        "os.memfd_create('more')",
        "os.setuid(0)",
        "os.setgid(0)",
        "os.chroot('/')",
        "os.nice(-20)",
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "import ctypes; [][ctypes.CDLL(None).unshare(0x10000000)]",
        "import ctypes; [][ctypes.CDLL(None).ptrace(16, 1, 0, 0)]",
        "import ctypes; [][ctypes.CDLL(None).shmget(0, 4096, 0o1600)]",
    ],
)
async def test_code_reaches_nothing_of_the_machine(sandbox: Sandbox, secret: Path, line: str) -> None:
    detail = await failure(sandbox, grading(line), secret=str(secret))
    refusals = (
        "PermissionError",
        "FileNotFoundError",
        "OSError",
        "URLError",
        "RuntimeError",
        "ValueError",
        "IndexError",
    )
    assert detail.startswith(refusals), detail
    assert "root:" not in detail


async def test_code_sees_no_environment_and_is_nobody(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FETTLE_API_KEYS", "secret")
    seen = await failure(
        sandbox, grading("raise ValueError(sorted(os.environ), os.getuid(), os.getgid(), os.getpid())")
    )
    assert "FETTLE" not in seen
    assert "PATH'" not in seen.replace("LD_LIBRARY_PATH'", "")
    assert ", 65534, 65534, 2)" in seen


async def test_code_cannot_kill_what_is_around_it(sandbox: Sandbox) -> None:
    for target in ("os.getppid()", "1", "-1", str(os.getpid())):
        assert "Error" in await failure(sandbox, grading(f"os.kill({target}, 9)", "return 'alive'"))
    assert await run(sandbox, grading("return 1.0")) == 1.0


@pytest.mark.parametrize(
    "source",
    [
        grading("while True: pass"),
        grading("import time; time.sleep(1000)"),
        "while True: pass",
        grading("import signal", "signal.signal(signal.SIGTERM, signal.SIG_IGN)", "while True:", "    try: sum(range(10**9))", "    except BaseException: pass"),  # noqa: E501
        "import atexit\n@atexit.register\ndef stay():\n    while True: pass\n" + grading("while True: pass"),
    ],
)  # fmt: skip
async def test_code_without_end_is_ended(short: Sandbox, source: str) -> None:
    started = time.monotonic()
    assert await failure(short, source) == "it took longer than 1 s"
    assert time.monotonic() - started < 15  # on a machine that does other things too
    wait_until(lambda: not programs(), 10, "something of it still runs")


@pytest.mark.parametrize(
    ("lines", "mentions"),
    [
        (["return len('x' * 10**9)"], "MemoryError"),
        (["kept = []", "while True: kept.append(bytearray(10**7))"], "MemoryError"),
        (["n = 0", "while True:", "    open(f'/tmp/{n}', 'w').write('x' * 10**7); n += 1"], "No space left"),
        (["open('/tmp/big', 'w').truncate(10**9)"], "reward"),  # SIGXFSZ, or the error that Python makes of it
        (["kept = []", "while True: kept.append(open('/dev/null'))"], "Too many open files"),
        (["kept = []", "while True: kept.append(os.fork())"], "Error"),
        (["while True:", "    for n in range(3, 20):", "        try: os.write(n, b'x' * 10**6)", "        except OSError: pass"], "reward"),  # noqa: E501
        (["while True: print('x' * 10**6)"], "longer than"),
        (["sys.setrecursionlimit(10**9)", "f = lambda: f()", "f()"], ""),
    ],
)  # fmt: skip
async def test_code_that_wants_too_much_gets_no_more(short: Sandbox, lines: list[str], mentions: str) -> None:
    detail = await failure(short, grading(*lines))
    assert mentions in detail or "File too large" in detail or "longer than" in detail


async def test_what_is_written_on_the_answers_channel_is_no_way_out(sandbox: Sandbox) -> None:
    forged = grading("for n in range(3, 10):", "    try: os.write(n, item['text'].encode())", "    except OSError: pass", "os._exit(0)")  # fmt: skip  # noqa: E501
    for text in ('{"reward": NaN}', '{"reward": "1"}', '{"error": {"a": 1}}', "[1]", "[" * 5000, "\ud83d\ude00"):
        with pytest.raises(GradingFailed):
            await run(sandbox, forged, text=text)


async def test_answers_nested_deeply_are_handed_over_or_refused(sandbox: Sandbox) -> None:
    for depth in (100, 500, 800, 900, 950, 5000):
        sample = Sample("[" * depth + "]" * depth).as_variables()
        try:
            assert await sandbox.run(grading("return 1.0"), {"sample": sample, "item": {}}) == 1.0
        except GradingFailed as failed:
            assert failed.flag == "other_error"
            assert depth > 500


async def test_nothing_stays_from_one_run_to_the_next(sandbox: Sandbox) -> None:
    await run(sandbox, grading("open('/tmp/left', 'w').write('x')", "return 1.0"))
    assert "FileNotFoundError" in await failure(sandbox, grading("return open('/tmp/left').read()"))


async def test_loading_finds_what_is_wrong_without_grading(sandbox: Sandbox) -> None:
    await sandbox.load(grading("raise ValueError('not now')"))
    with pytest.raises(GradingFailed, match="no function 'grade'"):
        await sandbox.load("x = 1")


async def test_a_cancelled_run_leaves_nothing_behind(sandbox: Sandbox) -> None:
    running = asyncio.create_task(run(sandbox, grading("import time; time.sleep(1000)")))
    await asyncio.to_thread(wait_until, lambda: bool(programs()), 10, "the sandbox did not start")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    wait_until(lambda: not programs(), 10, "the sandbox was not ended")


async def test_runs_that_are_cancelled_while_they_start_leave_nothing_behind(sandbox: Sandbox) -> None:
    for milliseconds in range(0, 60, 2):
        running = asyncio.create_task(run(sandbox, grading("import time; time.sleep(1000)")))
        await asyncio.sleep(milliseconds / 1000)
        running.cancel()
        async with asyncio.timeout(20):
            with suppress(asyncio.CancelledError):
                await running
    wait_until(lambda: not programs(), 10, "something of it still runs")


async def test_without_bubblewrap_code_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox = Sandbox(LIMITS)
    refusal = await sandbox.refusal()
    assert refusal is not None
    assert "bubblewrap is not installed" in refusal
    with pytest.raises(GradingFailed, match="bubblewrap") as failed:
        await run(sandbox, grading("return 1.0"))
    assert failed.value.flag == "python_grader_server_error"


async def test_a_bubblewrap_that_isolates_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As one in a container that is not allowed to: the program runs, and sees this machine."""
    pretending(tmp_path, f'while [ "$1" != -I ]; do shift; done\nexec {sys.executable} "$@"')
    monkeypatch.setenv("PATH", str(tmp_path))
    refusal = await Sandbox(LIMITS).refusal()
    assert refusal is not None
    assert "does not hold here" in refusal


async def test_the_trial_notices_that_it_is_outside_of_a_sandbox() -> None:
    with pytest.raises(AssertionError, match=r"it runs as root|it sees"):
        sandbox_probe.grade({}, {"paths": [], "memory_bytes": 1})


async def test_a_bubblewrap_that_may_not_make_namespaces_is_told_in_its_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretending(tmp_path, "echo 'bwrap: No permissions to create new namespace' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    refusal = await Sandbox(LIMITS).refusal()
    assert refusal is not None
    assert "No permissions to create new namespace" in refusal


async def test_a_folder_that_can_be_seen_from_inside_is_a_refusal(sandbox: Sandbox) -> None:
    refusal = await Sandbox(LIMITS, [Path("/usr/lib")]).refusal()
    assert refusal is not None
    assert "it sees /usr/lib" in refusal


def pretending(folder: Path, script: str) -> None:
    path = folder / "bwrap"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def programs() -> list[str]:
    """Sandboxes that live, by their command lines."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            if "Runs inside the sandbox" in command:  # the program is handed over as text
                found.append(command[:200])
    return found
