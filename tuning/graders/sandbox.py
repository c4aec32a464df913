"""Runs python graders where they can reach nothing: a bubblewrap sandbox, made for one call and gone after it.

Inside there is the Python interpreter with its standard library, a few packages, a small `/tmp` in memory, and nothing
else: no network, no other process, no file of this machine, no environment. `sandbox_program.py` is the one process in
it, under an unprivileged user, with limits on time, memory, files and open files; `sandbox_filter.py` keeps it from the
system calls that namespaces do not cover. Whether all this holds here is tried before the first use, not assumed.
"""

import asyncio
import importlib.util
import json
import logging
import math
import os
import shutil
import signal
import sys
import sysconfig
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from tuning.graders.failure import MAX_DETAIL_CHARACTERS, GradingFailed
from tuning.graders.sample import Namespaces
from tuning.graders.sandbox_filter import NoFilter, compile_filter
from tuning.graders.sandbox_program import BEGINS, READY

log = logging.getLogger(__name__)

PACKAGES = ("numpy", "rapidfuzz", "regex", "nltk", "rouge_score", "yaml")
"""What graders may import besides the standard library, where it is installed."""
_THEIR_PACKAGES = ("absl", "click", "defusedxml", "joblib", "six", "tqdm")

_PROGRAM = Path(__file__).with_name("sandbox_program.py")
_PROBE = Path(__file__).with_name("sandbox_probe.py")
_SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")

_TEMPORARY_BYTES = 64 * 1024 * 1024
_MAX_ANSWER_BYTES = 64 * 1024
_START = timedelta(seconds=10)  # beside the time that the grader has


@dataclass(frozen=True)
class SandboxLimits:
    time: timedelta = timedelta(minutes=2)
    memory_bytes: int = 2 * 1024**3
    at_once: int = 2
    """Sandboxes that run side by side; others wait."""


class Sandbox:
    def __init__(self, limits: SandboxLimits, private: Sequence[Path] = ()) -> None:
        """`private`: folders of which the trial makes sure that they are out of reach."""
        self._limits = limits
        self._private = [str(path) for path in private]
        self._room = asyncio.Semaphore(limits.at_once)
        self._trial = asyncio.Lock()
        self._holds = False

    async def refusal(self) -> str | None:
        """Why this machine cannot isolate a grader, or None. Tried once; again only after a refusal."""
        async with self._trial:
            if self._holds:
                return None
            if (bwrap := shutil.which("bwrap")) is None:
                return "bubblewrap is not installed (the package 'bubblewrap', the command 'bwrap')"
            item = {"paths": self._private, "memory_bytes": self._limits.memory_bytes}
            try:
                await self._ask(bwrap, _PROBE.read_text(), {"sample": {}, "item": item})
            except NoFilter as error:
                return str(error)
            except GradingFailed as failure:
                log.warning("python graders cannot be isolated on this machine: %s", failure.detail)
                return f"the sandbox does not hold here: {failure.detail}"
            self._holds = True
            return None

    async def run(self, source: str, namespaces: Namespaces) -> float:
        """What `grade` of the source returns. Raises GradingFailed."""
        return await self._ask(await self._bwrap(), source, namespaces)

    async def load(self, source: str) -> None:
        """Raises GradingFailed when the source does not even load, or has no `grade` of two arguments."""
        await self._ask(await self._bwrap(), source, {"sample": {}, "item": {}}, only_load=True)

    async def _bwrap(self) -> str:
        refusal = await self.refusal()
        bwrap = shutil.which("bwrap")
        if refusal is not None or bwrap is None:
            raise GradingFailed("python_grader_server_error", refusal or "bubblewrap is gone")
        return bwrap

    async def _ask(self, bwrap: str, source: str, namespaces: Namespaces, *, only_load: bool = False) -> float:
        seconds = self._limits.time.total_seconds()
        question = {
            "source": source,
            "sample": namespaces["sample"],
            "item": namespaces["item"],
            "only_load": only_load,
            "memory_bytes": self._limits.memory_bytes,
            "cpu_seconds": math.ceil(seconds) + 1,  # the clock on the wall is looked at from outside
        }
        async with self._room:
            return _read_answer(*await _run(_command(bwrap), _encode(question), seconds))


def _encode(question: dict[str, Any]) -> bytes:
    try:
        return json.dumps(question).encode()
    except RecursionError as error:
        raise GradingFailed("other_error", "the sample or the item is nested too deeply") from error


def _read_answer(answer: bytes | None, errors: bytes, status: int) -> float:
    if answer is None:
        reason = errors.decode(errors="replace").strip()[-MAX_DETAIL_CHARACTERS:] or f"it ended with status {status}"
        log.error("a sandbox did not start: %s", reason)
        raise GradingFailed("python_grader_server_error", reason)
    try:
        decoded = json.loads(answer)
        reward, error = decoded.get("reward"), decoded.get("error")
    except (ValueError, AttributeError, RecursionError):  # the user's code may write on the same channel, and be killed
        reward, error = None, f"it ended with status {status} before it returned a reward"
    if isinstance(reward, float) and math.isfinite(reward):
        return reward
    raise GradingFailed("python_grader_runtime_error", error if isinstance(error, str) else "it returned no reward")


async def _run(command: Sequence[str], question: bytes, seconds: float) -> tuple[bytes | None, bytes, int]:
    """Its answer, None when the user's code was not reached; its standard error; its exit status.
    Raises GradingFailed when it takes longer than `seconds`."""
    process = await _start(command)
    try:
        async with asyncio.timeout(_START.total_seconds()) as clock:
            conversation = _converse(
                process, question, lambda: clock.reschedule(asyncio.get_running_loop().time() + seconds)
            )
            answer, errors = await asyncio.gather(conversation, _read_errors(process))
            return answer, errors, await process.wait()
    except TimeoutError as error:
        raise GradingFailed("python_grader_runtime_error", f"it took longer than {seconds:g} s") from error
    finally:
        _end(process)
        await process.wait()


async def _start(command: Sequence[str]) -> Process:
    filter_fd = _as_pipe(compile_filter())
    starting = asyncio.create_task(
        asyncio.create_subprocess_exec(
            *(*command, str(filter_fd), *_interpreter()),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={},
            pass_fds=[filter_fd],
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:  # asyncio would end the outer process alone
        process = await starting
        _end(process)
        await process.wait()
        raise
    finally:
        os.close(filter_fd)


async def _converse(process: Process, question: bytes, begins: Callable[[], None]) -> bytes | None:
    """Calls `begins` when the user's code does. It is not sent before the sandbox is whole: until then bubblewrap's
    inner process can outlive its outer one, and then finds nothing to read, and ends."""
    assert process.stdin is not None
    assert process.stdout is not None
    if await process.stdout.readline() != READY:
        return None
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(question)
        await process.stdin.drain()
    process.stdin.close()
    if await process.stdout.readline() != BEGINS:
        return None
    begins()
    content = bytearray()
    while chunk := await process.stdout.read(_MAX_ANSWER_BYTES):
        content += chunk
        if len(content) > _MAX_ANSWER_BYTES:  # only the user's code can have written so much
            _end(process)
            break
    return bytes(content[:_MAX_ANSWER_BYTES])


async def _read_errors(process: Process) -> bytes:
    """Of bwrap and of our own program: the user's code has no standard error."""
    assert process.stderr is not None
    return await process.stderr.read(_MAX_ANSWER_BYTES)


def _end(process: Process) -> None:
    """The group is bwrap with its inner process until that has a session of its own, and dies with the outer one."""
    assert process.stdin is not None
    process.stdin.close()
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _as_pipe(content: bytes) -> int:
    """A descriptor to read it from; it fits into a pipe whole."""
    read_fd, write_fd = os.pipe()
    os.write(write_fd, content)
    os.close(write_fd)
    return read_fd


def _command(bwrap: str) -> list[str]:
    """All but the number of the filter's descriptor and what is to be run."""
    # Root makes the sandbox without a user namespace, and the program becomes nobody in it: in a user namespace it
    # would still be root to the kernel, whose limit of processes does not hold for root.
    if os.geteuid() == 0:
        user = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        user = ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    return [
        *(bwrap, "--die-with-parent", "--new-session"),
        *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
        *user,
        *_mounts(),
        *("--perms", "1777", "--size", str(_TEMPORARY_BYTES), "--tmpfs", "/tmp"),
        *("--remount-ro", "/", "--chdir", "/tmp"),
        *("--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8", "--setenv", "LD_LIBRARY_PATH", "/python/lib"),
        *("--setenv", "OMP_NUM_THREADS", "1", "--setenv", "OPENBLAS_NUM_THREADS", "1"),  # there are no threads
        "--seccomp",
    ]


def _interpreter() -> list[str]:
    return ["/python/bin/python3", "-I", "-S", "-B", "-c", _PROGRAM.read_text()]


def _mounts() -> Iterator[str]:
    """Under paths of our own: no folder that leads to the interpreter here is seen inside."""
    for folder in ("/dev", "/packages", "/python", "/python/bin", "/python/lib", f"/python/{sys.platlibdir}", "/usr"):
        yield from ("--perms", "0755", "--dir", folder)  # what bwrap makes by itself only root could enter
    for library in map(Path, _SYSTEM_LIBRARIES):
        if library.is_symlink():
            yield from ("--symlink", str(library.readlink()), str(library))
        elif library.is_dir():
            yield from ("--ro-bind", str(library), str(library))
    for device in ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"):
        yield from ("--dev-bind", device, device)
    prefix, standard_library = Path(sys.base_prefix), Path(sysconfig.get_path("stdlib"))
    yield from ("--ro-bind", os.path.realpath(_base_interpreter()), "/python/bin/python3")
    yield from ("--ro-bind", str(standard_library), f"/python/{standard_library.relative_to(prefix)}")
    for shared in sorted((prefix / "lib").glob("libpython*.so*")):
        yield from ("--ro-bind", str(shared), f"/python/lib/{shared.name}")
    for path in sorted(_packages()):
        yield from ("--ro-bind", str(path), f"/packages/{path.name}")


def _base_interpreter() -> str:
    """The one behind the virtual environment."""
    return str(getattr(sys, "_base_executable", sys.executable))


def _packages() -> Iterator[Path]:
    for name in (*PACKAGES, *_THEIR_PACKAGES):
        specification = importlib.util.find_spec(name)
        if specification is None or specification.origin is None:
            continue
        origin = Path(specification.origin)
        yield origin.parent if specification.submodule_search_locations else origin
        shared_libraries = origin.parent.with_name(f"{name}.libs")  # beside it, as numpy's wheels have them
        if shared_libraries.is_dir():
            yield shared_libraries


def available_packages() -> list[str]:
    return [name for name in PACKAGES if importlib.util.find_spec(name) is not None]
