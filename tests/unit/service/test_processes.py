"""Detached processes are found again, started once, and stopped with everything that they started."""

import asyncio
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from service.processes import DetachedProcess
from tests.fixtures.service import wait_until

GRACE = timedelta(seconds=20)
FOREVER = ["sh", "-c", "touch $0; while true; do sleep 60; done"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "execution"


def start(folder: Path, *arguments: str) -> DetachedProcess:
    process = DetachedProcess(folder)
    assert process.start(arguments, os.environ)
    return process


def wait_for_end(process: DetachedProcess) -> None:
    wait_until(lambda: not process.is_alive(), 20, "the process did not end")


def test_its_exit_code_and_output_are_kept(folder: Path) -> None:
    process = start(folder, "sh", "-c", "echo hello; exit 7")
    wait_for_end(process)
    assert process.exit_code() == 7
    assert process.log_tail() == "hello\n"


def test_a_second_start_finds_the_first_running_or_ended(folder: Path) -> None:
    process = start(folder, "sh", "-c", "read line < fifo")
    assert not DetachedProcess(folder).start(["true"], os.environ)
    wait_for_end(process)
    assert not DetachedProcess(folder).start(["true"], os.environ)


def test_it_is_found_again_after_its_parent_was_killed(folder: Path) -> None:
    parent = (
        "import os, sys; from pathlib import Path; from service.processes import DetachedProcess;"
        f"DetachedProcess(Path(sys.argv[1])).start([*{FOREVER!r}, sys.argv[1] + '/ready'], os.environ);"
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", parent, str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    process = DetachedProcess(folder)
    assert process.is_alive()
    wait_until((folder / "ready").exists, 20, "it did not start")
    asyncio.run(process.stop(GRACE))
    assert not process.is_alive()


async def test_stopping_lets_it_end_in_its_own_way(folder: Path) -> None:
    process = start(folder, "sh", "-c", f'trap "exit 75" TERM; touch {folder}/ready; while true; do sleep 0.05; done')
    wait_until((folder / "ready").exists, 20, "it did not start")
    await process.stop(GRACE)
    assert process.exit_code() == 75


async def test_what_does_not_stop_is_killed_with_its_children(folder: Path) -> None:
    ignore = f'trap "" TERM; touch {folder}/ready; (while true; do sleep 1; done) & wait'
    process = start(folder, "sh", "-c", ignore)
    wait_until((folder / "ready").exists, 20, "it did not start")
    await process.stop(timedelta(milliseconds=200))
    assert not process.is_alive()
    assert process.exit_code() is None


async def test_stopping_what_never_ran_or_has_ended_is_no_error(folder: Path) -> None:
    await DetachedProcess(folder).stop(GRACE)
    process = start(folder, "true")
    wait_for_end(process)
    await process.stop(GRACE)
    assert process.exit_code() == 0
