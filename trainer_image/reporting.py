"""What the run tells while it lasts: numbered event parts, uploaded by a thread so that training never waits."""

import csv
import logging
import threading
import time
from pathlib import Path
from types import TracebackType

from trainer_image import artifacts
from tuning.contract import METRICS_CSV_COLUMNS, StepMetrics, TrainingEvent, event_part_name

log = logging.getLogger("trainer")

SECONDS_BETWEEN_PARTS = 0.5
"""Events of a fast run share parts: on S3 every part is a request, here and at the reader."""
SECONDS_BETWEEN_METRICS = 2.0


class EventReporter:
    """Writes parts `events/00000001.jsonl` … without gaps: a number is used up only when its part is whole.

    A storage that fails is tried again until `close`, which makes a last attempt and raises what that raised.
    """

    def __init__(self, output_uri: str) -> None:
        self._output_uri = output_uri
        self._parts = 0
        self._pending: list[TrainingEvent] = []
        self._wake = threading.Condition()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._upload_until_closed, name="events", daemon=True)
        self._thread.start()

    def report(self, event: TrainingEvent) -> None:
        with self._wake:
            self._pending.append(event)
            self._wake.notify()

    def close(self) -> None:
        with self._wake:
            self._is_closing.set()
            self._wake.notify()
        self._thread.join()
        self._upload_pending()

    def __enter__(self) -> "EventReporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _upload_until_closed(self) -> None:
        while not self._is_closing.is_set():
            with self._wake:
                self._wake.wait_for(lambda: self._pending or self._is_closing.is_set())
            try:
                self._upload_pending()
            except Exception as error:  # whatever storage raises, the events wait here and training goes on
                log.warning("event part %d cannot be written yet: %s", self._parts + 1, error)
            self._is_closing.wait(SECONDS_BETWEEN_PARTS)

    def _upload_pending(self) -> None:
        with self._wake:
            events = self._pending[:]
        if not events:
            return
        content = b"".join(event.model_dump_json(exclude_none=True).encode() + b"\n" for event in events)
        artifacts.write_bytes(f"{self._output_uri}/{event_part_name(self._parts + 1)}", content)
        with self._wake:
            self._parts += 1
            del self._pending[: len(events)]


class MetricsCsv:
    """`step_metrics.csv` as it grows, on the local disk: a row for every step, reported or not."""

    def __init__(self, path: Path) -> None:
        """Goes on after the rows that are there."""
        self.path = path
        is_new = not path.exists()
        self._file = path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, METRICS_CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
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
