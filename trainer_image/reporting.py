"""What the run tells while it lasts: numbered event parts, uploaded by a thread so that training never waits.

A part is never written over. So the parts also decide who owns a run that was started twice: see `earlier_starts`.
"""

import csv
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from trainer_image import artifacts
from trainer_image.earlier_starts import EarlierStarts
from tuning.contract import (
    ExitCode,
    FinishedEvent,
    JobResult,
    StepMetrics,
    TrainingEvent,
    event_part_name,
)

log = logging.getLogger("trainer")

SECONDS_BETWEEN_PARTS = 0.5
"""Events of a fast run share parts: on S3 every part is a request, here and at the reader."""
SECONDS_BETWEEN_METRICS = 2.0


class TakenOver(SystemExit):
    """Another start of this run has written since: this one must write nothing more, and ends as if pre-empted."""

    def __init__(self, reason: str) -> None:
        super().__init__(int(ExitCode.PREEMPTED))
        self.reason = reason


class EventReporter:
    """Writes parts `events/00000001.jsonl` … without gaps: a number is used up only when its part is whole.

    Before `begin` events wait: a start that ends before it could train takes nothing over from one that may live. A
    storage that fails is tried again until `close`, which makes a last attempt and raises what that raised.
    """

    def __init__(self, earlier: EarlierStarts) -> None:
        self._earlier = earlier
        self._starts_before = earlier.starts
        self._has_begun = False
        self._next_part = 0
        self._pending: list[TrainingEvent] = []
        self._part: bytes | None = None
        """Sent, perhaps written, and not yet confirmed: tried again with the same bytes, or they would look foreign."""
        self._taken_over: TakenOver | None = None
        self._wake = threading.Condition()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._upload_until_closed, name="events", daemon=True)

    def report(self, event: TrainingEvent) -> None:
        with self._wake:
            self._pending.append(event)
            self._wake.notify()

    def begin(self) -> EarlierStarts:
        """The run is ours from the next part on, after all that others have written until now. Raises TakenOver when
        another start has begun since this one came up: it has read the same, and is ahead."""
        if self._has_begun:
            return self._earlier
        self._earlier.read_on()
        if self._earlier.starts > self._starts_before or self._earlier.result is not None:
            raise TakenOver("another start of this run has begun while this one was loading")
        self._next_part = self._earlier.next_part
        self._thread.start()
        self._has_begun = True
        return self._earlier

    def finish(self, result: JobResult) -> None:
        """Returns when the result is the run's own; raises TakenOver when the run is no longer ours."""
        self.begin()
        self.report(FinishedEvent(created_at=time.time(), result=result))
        self.close()

    def raise_if_taken_over(self) -> None:
        if self._taken_over is not None:
            raise self._taken_over

    def close(self) -> None:
        if not self._has_begun:
            return
        with self._wake:
            self._is_closing.set()
            self._wake.notify()
        self._thread.join()
        while self._upload_next():
            pass

    def __enter__(self) -> "EventReporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _upload_until_closed(self) -> None:
        while not self._is_closing.is_set():
            with self._wake:
                self._wake.wait_for(lambda: self._pending or self._part or self._is_closing.is_set())
            try:
                self._upload_next()
            except TakenOver:
                return
            except Exception as error:  # whatever storage raises, the events wait here and training goes on
                log.warning("event part %d cannot be written yet: %s", self._next_part, error)
            self._is_closing.wait(SECONDS_BETWEEN_PARTS)

    def _upload_next(self) -> bool:
        """Returns whether there was anything to upload."""
        self.raise_if_taken_over()
        if self._part is None:
            with self._wake:
                events, self._pending = self._pending, []
            if not events:
                return False
            self._part = b"".join(_line(event) for event in events)
        name = event_part_name(self._next_part)
        try:
            artifacts.create_bytes(f"{self._earlier.output_uri}/{name}", self._part)
        except artifacts.WrittenByAnother as error:
            self._taken_over = TakenOver(f"another start of this run goes on with it, and has written {name}")
            raise self._taken_over from error
        self._part = None
        self._next_part += 1
        return True


def _line(event: TrainingEvent) -> bytes:
    is_result = isinstance(event, FinishedEvent)  # in which no error is a value
    return event.model_dump_json(exclude_none=not is_result).encode() + b"\n"


class MetricsCsv:
    """`step_metrics.csv` as it grows, on the local disk: a row for every step, reported or not."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        """Goes on after the rows that are there."""
        self.path = path
        is_new = not path.exists()
        self._file = path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, columns, extrasaction="ignore", lineterminator="\n")
        if is_new:
            self._writer.writeheader()

    def add(self, metrics: StepMetrics) -> None:
        self._writer.writerow(metrics.model_dump(exclude_none=True))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class MetricsPace:
    """Which steps become events: the first, the last, those with validation, and one every 2 s or 1 % of the steps."""

    def __init__(self, total_steps: int, *, resumed_step: int = 0) -> None:
        self._total_steps = total_steps
        self._every_steps = max(1, total_steps // 100)
        self._last_step = resumed_step
        self._last_time = time.monotonic()

    def is_due(self, metrics: StepMetrics) -> bool:
        is_due = (
            metrics.step in (1, self._total_steps)
            or metrics.valid_loss is not None
            or metrics.full_valid_loss is not None
            or metrics.step - self._last_step >= self._every_steps
            or time.monotonic() - self._last_time >= SECONDS_BETWEEN_METRICS
        )
        if is_due:
            self._last_step, self._last_time = metrics.step, time.monotonic()
        return is_due
