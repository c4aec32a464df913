"""How many processes may render rows: as many as there are cores, for all files of this user on this machine together.

Each has about 90 MB of memory, and a dispatcher validates up to 16 files at once.
"""

import fcntl
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

MAX_PROCESSES = 8
"""More would wait for the one that puts together what they make."""

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@contextmanager
def taken_slots() -> Iterator[int]:
    """How many processes may be started until it is left: those that nobody else has. They are free again when the
    process that took them ends, however it does."""
    count = min(count_cores(), MAX_PROCESSES)
    folder = Path(tempfile.gettempdir())
    with ExitStack() as locks:
        taken = 0
        for number in range(count):
            taken += _take(folder / f"fettle-rows-{os.getuid()}-{number}.lock", locks)
        yield taken


def count_cores() -> int:
    """That this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _cpu_quota(cores)))


def _take(path: Path, locks: ExitStack) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        return False  # somebody else's
    locks.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False  # taken
    return True


def _cpu_quota(cores: int) -> int:
    """Of a container."""
    try:
        quota, period = _CPU_QUOTA.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return cores  # there is none
