"""Work in stages: bars on a terminal, plain lines in a pipe."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_INTERVAL_SECONDS = 10
"""Between two lines of one stage in a pipe."""


class Stage:
    """One line. `seconds` runs from its start to its finish."""

    def __init__(self, stages: "Stages", title: str, total: float | None) -> None:
        self.title = title
        self._stages = stages
        self._started = time.monotonic()
        self._finished: float | None = None
        self._printed_at = 0.0
        self._task: TaskID = stages.progress.add_task(title, total=total, note="")

    @property
    def seconds(self) -> float:
        return (self._finished or time.monotonic()) - self._started

    def advance_to(self, completed: float, total: float | None = None, note: str = "") -> None:
        self._stages.progress.update(self._task, completed=completed, total=total, note=note)
        if note and time.monotonic() - self._printed_at >= LINE_INTERVAL_SECONDS:
            self._printed_at = time.monotonic()
            self._stages.plain(f"{self.title}: {note}")

    def finish(self) -> float:
        """Returns its seconds. Safe to repeat."""
        if self._finished is None:
            self._finished = time.monotonic()
            progress = self._stages.progress
            total = progress.tasks[progress.task_ids.index(self._task)].total or 1
            progress.update(self._task, completed=total, total=total)
            progress.stop_task(self._task)
            self._stages.plain(f"{self.title}: done ({self.seconds:.1f} s)")
        return self.seconds


class Stages:
    def __init__(self) -> None:
        self.console = Console()
        self.progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def start(self, title: str, total: float | None = None) -> Stage:
        return Stage(self, title, total)

    def say(self, message: str) -> None:
        """A line above the bars."""
        if self.console.is_terminal:
            self.progress.console.print(message, style="dim", markup=False, highlight=False)
        else:
            self.plain(message)

    def plain(self, message: str) -> None:
        if not self.console.is_terminal:
            print(message, flush=True)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
