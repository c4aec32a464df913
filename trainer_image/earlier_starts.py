"""What earlier starts of this attempt left: found in their event parts, which also decide who owns the run.

A start looks twice: when it comes up, and again when it is about to train, because an older pod may save its state for
as long as its grace period lasts. What came in between tells whether somebody else has begun meanwhile.
"""

from concurrent.futures import ThreadPoolExecutor

from pydantic import TypeAdapter

from trainer_image import artifacts
from tuning.contract import (
    FinishedEvent,
    JobResult,
    MetricsEvent,
    StartedEvent,
    StateSavedEvent,
    TrainingEvent,
    event_part_name,
    state_name,
)

READERS = 16
"""A run of ten hours has some 10,000 parts, and each is a request on S3."""

_TRAINING_EVENT: TypeAdapter[TrainingEvent] = TypeAdapter(TrainingEvent)


class EarlierStarts:
    def __init__(self, output_uri: str) -> None:
        self.output_uri = output_uri
        self.next_part = 1
        """The first that is not there."""
        self.starts = 0
        """How often training has begun."""
        self.last_step = 0
        """That was told by the latest of them."""
        self.state_uri: str | None = None
        """Of the state that was saved last."""
        self.result: JobResult | None = None
        """The run is over, also when `result.json` is not there yet."""
        self.read_on()

    def read_on(self) -> None:
        """The parts that have come since."""
        width = 1
        with ThreadPoolExecutor(READERS, thread_name_prefix="parts") as pool:
            while True:
                numbers = range(self.next_part, self.next_part + width)
                for content in pool.map(self._read_part, numbers):
                    if content is None:
                        return
                    self._take(content)
                    self.next_part += 1
                width = min(2 * width, 4 * READERS)  # most runs have none, and should not pay for those that have many

    def _read_part(self, number: int) -> bytes | None:
        try:
            return artifacts.read_bytes(f"{self.output_uri}/{event_part_name(number)}")
        except FileNotFoundError:
            return None

    def _take(self, part: bytes) -> None:
        for line in part.splitlines():
            match _TRAINING_EVENT.validate_json(line):
                case StartedEvent():
                    self.starts += 1
                case MetricsEvent() as event:
                    self.last_step = event.metrics.step
                case StateSavedEvent() as event:
                    self.state_uri = f"{self.output_uri}/{event.folder or state_name(event.step)}"
                case FinishedEvent() as event:
                    self.result = event.result
