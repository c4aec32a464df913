"""A child process that outlives the service and is found again: trainers and vLLM run as these.

Each has a folder. Whoever holds the lock on `lock` in it is alive: the process inherits the locked descriptor, so the
lock goes exactly when the last process of the group is gone, with no race over recycled process ids. A second start
finds the lock taken and leaves the first one alone. A shell around the command writes `exit_code` when it ends.

    lock        flock'ed while the process, or any child that inherited it, lives
    pid         the process group
    exit_code   written by the shell; absent when the whole group was killed
    log         standard output and error, appended
"""

import asyncio
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

# $0 is the folder; the pid is the group's because of start_new_session. The trap lets the shell outlive a SIGTERM to
# the group without the command inheriting it. A rename makes the exit code appear whole.
_SHELL = """
trap : TERM INT HUP
echo $$ > "$0/pid"
"$@"
echo $? > "$0/exit_code.new"
mv "$0/exit_code.new" "$0/exit_code"
"""

_POLL_SECONDS = 0.05  # how often a process that was told to stop is looked at


class DetachedProcess:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def log_path(self) -> Path:
        return self.folder / "log"

    @property
    def was_started(self) -> bool:
        return (self.folder / "pid").exists() or self.is_alive()

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
        """Starts the command unless it runs or has run in this folder. Returns whether this call started it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if (self.folder / "pid").exists():
                return False
            with self.log_path.open("ab") as log:
                child = subprocess.Popen(
                    ["/bin/sh", "-c", _SHELL, str(self.folder), *arguments],
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(lock.fileno(),),
                    start_new_session=True,
                )
            (self.folder / "pid").write_text(str(child.pid))  # the shell writes the same, but perhaps later than a stop
        return True

    def is_alive(self) -> bool:
        try:
            with (self.folder / "lock").open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def exit_code(self) -> int | None:
        """None while it runs, and when it was killed together with the shell around it."""
        try:
            return int((self.folder / "exit_code").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def log_tail(self, limit_bytes: int = 4000) -> str:
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - limit_bytes))
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def interrupt(self) -> None:
        """SIGTERM to the group, and nothing more."""
        self._signal(signal.SIGTERM)

    async def stop(self, grace: timedelta) -> None:
        """SIGTERM to the group, SIGKILL after the grace period; returns when nothing of it lives. Safe to repeat."""
        self.interrupt()
        deadline = time.monotonic() + grace.total_seconds()
        while self.is_alive():
            if time.monotonic() >= deadline:
                self._signal(signal.SIGKILL)
            await asyncio.sleep(_POLL_SECONDS)
        self._kill_stragglers()

    def _signal(self, number: signal.Signals) -> None:
        if not self.is_alive():
            return
        with suppress(FileNotFoundError, ValueError, ProcessLookupError):
            os.killpg(int((self.folder / "pid").read_text()), number)

    def _kill_stragglers(self) -> None:
        """Children that closed the inherited lock, as those of multiprocessing do, outlive a parent that was killed."""
        with suppress(FileNotFoundError, ValueError, ProcessLookupError):
            group = int((self.folder / "pid").read_text())
            with suppress(ChildProcessError):
                os.waitpid(group, os.WNOHANG)  # our own zombie would look like a leader that lives
            try:
                os.kill(group, 0)
            except ProcessLookupError:
                os.killpg(group, signal.SIGKILL)  # without a leader: the number cannot have been given to others
