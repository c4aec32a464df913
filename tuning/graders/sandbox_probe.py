"""The code that shows whether a sandbox holds: it runs in one as a grader and raises with the first thing it can reach.

`item` is `{"paths": [files and folders that must be out of reach], "memory_bytes": its limit}`.
"""

import ctypes
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

ALLOWED_VARIABLES = {"HOME", "LANG", "LC_CTYPE", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PWD"}


def grade(sample: dict[str, Any], item: dict[str, Any]) -> float:
    if os.getuid() == 0 or os.geteuid() == 0 or os.getgid() == 0 or 0 in os.getgroups():
        raise AssertionError("it runs as root")
    if strays := set(os.environ) - ALLOWED_VARIABLES:
        raise AssertionError(f"it sees environment variables of the server: {', '.join(sorted(strays))}")
    for path in ["/proc/1", "/etc/passwd", "/etc/shadow", "/var", "/home", "/run", *item["paths"]]:
        if os.path.lexists(path):
            raise AssertionError(f"it sees {path}")
    _must_fail("open a socket", lambda: socket.socket(socket.AF_INET))
    _must_fail("open a local socket", lambda: socket.socket(socket.AF_UNIX))
    _must_fail("start a process", _fork)
    _must_fail("start a thread", lambda: threading.Thread(target=int).start())
    _must_fail("write outside /tmp", Path("/here").mkdir)
    _must_fail("mount", _mount)
    _must_fail("take more memory than its limit", lambda: bytearray(item["memory_bytes"]))
    Path("/tmp/file").write_text("what is written here is gone afterwards")
    return 1.0


def _must_fail(what: str, act: Callable[[], object]) -> None:
    try:
        act()
    except (OSError, RuntimeError, MemoryError):
        return
    raise AssertionError(f"it can {what}")


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _mount() -> None:
    if ctypes.CDLL(None).mount(b"none", b"/tmp", b"tmpfs", 0, None) != 0:
        raise OSError("refused")
