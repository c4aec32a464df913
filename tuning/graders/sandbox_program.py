"""Runs inside the sandbox as its only process: takes limits on itself, then runs a user's `grade`.

`sandbox.py` hands its text to `python -c`, so it imports the standard library and nothing of ours. It says on
standard output that it is ready, reads one JSON question from standard input, says that the user's code begins, and
answers with `{"reward": …}` or `{"error": …}`. The user's code may write there too: it can only spoil its own reward.
"""

import inspect
import json
import math
import numbers
import os
import resource
import sys
import types
from typing import Any

NOBODY = 65534
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_OPEN_FILES = 64
MAX_DETAIL_CHARACTERS = 1000
SOURCE_NAME = "grader.py"
READY, BEGINS = b"ready\n", b"begins\n"


def main() -> None:
    channel = os.dup(1)
    _become_nobody()
    os.write(channel, READY)
    question = json.load(sys.stdin.buffer)
    _limit(question["memory_bytes"], question["cpu_seconds"])
    sys.path.append("/packages")
    nothing = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.write(channel, BEGINS)
    answer = json.dumps(_answer(question)).encode()
    os.write(channel, answer)
    os._exit(0)  # not through the handlers that the user's code may have left


def _become_nobody() -> None:
    """Without a user namespace of its own the sandbox is still root's here."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def _limit(memory_bytes: int, cpu_seconds: int) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, MAX_FILE_BYTES),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_NPROC, 1),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(kind, (most, most))
    os.nice(10)


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    try:
        grade = _load(question["source"])
        if question["only_load"]:
            return {"reward": 0.0}
        return {"reward": _number(grade(question["sample"], question["item"]))}
    except BaseException as error:  # SystemExit and MemoryError too: whatever the user's code does is an answer
        return {"error": _describe(error)}


def _load(source: str) -> Any:
    module = types.ModuleType("grader")
    sys.modules["grader"] = module
    exec(compile(source, SOURCE_NAME, "exec"), module.__dict__)
    grade = getattr(module, "grade", None)
    if not callable(grade):
        raise TypeError("the source has no function 'grade'")
    try:
        inspect.signature(grade).bind({}, {})
    except TypeError as error:
        raise TypeError("'grade' must take two arguments, the sample and the item") from error
    return grade


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"'grade' must return a float, not {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError("'grade' returned a number that is not finite")
    return float(value)


def _describe(error: BaseException) -> str:
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == SOURCE_NAME:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    try:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    except BaseException:  # a `__str__` of the user's own
        text = type(error).__name__
    return f"{text[:MAX_DETAIL_CHARACTERS]} (line {lines[-1]})" if lines else text[:MAX_DETAIL_CHARACTERS]


if __name__ == "__main__":
    main()
