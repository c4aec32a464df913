"""The real dispatcher in a process of its own, that tells how many SQL statements it has sent."""

import asyncio
import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event


@dataclass(frozen=True)
class RunningDispatcher:
    process: BaseProcess
    counter: "Synchronized[int]"

    @property
    def statements(self) -> int:
        return self.counter.value

    def memory_mib(self, line: str) -> int:
        """`VmRSS`: now; `VmHWM`: the most so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (kibibytes,) = (each.split()[1] for each in status.splitlines() if each.startswith(f"{line}:"))
        return int(kibibytes) // 1024


@contextmanager
def running_dispatcher(settings: dict[str, Any]) -> Iterator[RunningDispatcher]:
    """For the block; SIGTERM ends it."""
    context = multiprocessing.get_context("spawn")
    counter, is_running = context.Value("q", 0), context.Event()
    process = context.Process(target=_dispatch, args=(settings, counter, is_running))
    process.start()
    if not is_running.wait(60):
        raise RuntimeError("the dispatcher did not start")
    try:
        yield RunningDispatcher(process, counter)
    finally:
        process.terminate()
        process.join()


def _dispatch(settings: dict[str, Any], counter: "Synchronized[int]", is_running: Any) -> None:
    from service.app import create_app
    from service.settings import Settings

    def count(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        counter.value += 1

    event.listen(Engine, "before_cursor_execute", count)
    app = create_app(Settings.model_validate(settings))

    async def run() -> None:
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        async with app.router.lifespan_context(app):
            is_running.set()
            await stopped.wait()

    asyncio.run(run())
