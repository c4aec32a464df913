"""Work that would hold up the event loop, in a process of its own.

It is asked one question on standard input and gives one answer on standard output, both JSON. It may die with nobody
harmed: what asked it asks again.
"""

import asyncio
import json
import os
import sys
import threading
import time
from asyncio.subprocess import PIPE
from contextlib import suppress
from typing import Any


class WorkerDied(Exception):
    """Killed, out of memory, or a bug; what it printed is in the service's log."""


async def ask_worker(module: str, question: object) -> Any:
    """`module` runs as a program. It is killed when the caller is cancelled. Raises WorkerDied."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, stdin=PIPE, stdout=PIPE)
    try:
        output, _ = await process.communicate(json.dumps(question).encode())
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode != 0:
        raise WorkerDied(f"{module} ended with {process.returncode}")
    return json.loads(output)


def end_with_caller() -> None:
    """For work that takes minutes: the worker ends within a second of whoever asked it, also one that was killed."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(caller: int) -> None:
    while os.getppid() == caller:
        time.sleep(1)
    os._exit(1)
