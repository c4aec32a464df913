from pathlib import Path

import pytest

from trainer_image.reporting import EventReporter, MetricsPace
from tuning.contract import MessageEvent, StepMetrics, event_part_name


def message(number: int) -> MessageEvent:
    return MessageEvent(created_at=number, level="info", message=f"event {number}")


def test_events_come_in_order_in_parts_without_gaps(tmp_path: Path) -> None:
    with EventReporter(tmp_path.as_uri()) as reporter:
        for number in range(100):
            reporter.report(message(number))

    parts = sorted((tmp_path / "events").iterdir())
    assert [f"events/{part.name}" for part in parts] == [event_part_name(i + 1) for i in range(len(parts))]
    lines = [line for part in parts for line in part.read_text().splitlines()]
    assert [MessageEvent.model_validate_json(line) for line in lines] == [message(number) for number in range(100)]


def test_events_wait_for_a_storage_that_fails_for_a_while(tmp_path: Path) -> None:
    blocker = tmp_path / "out"
    blocker.write_text("a file where the folder must be")
    with EventReporter(blocker.as_uri()) as reporter:
        reporter.report(message(1))
        blocker.unlink()
    assert (blocker / event_part_name(1)).read_text() == message(1).model_dump_json(exclude_none=True) + "\n"


def test_a_storage_that_still_fails_at_the_end_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the folder must be")
    reporter = EventReporter((tmp_path / "out").as_uri())
    reporter.report(message(1))
    with pytest.raises(OSError):
        reporter.close()


def test_first_last_validated_and_every_hundredth_step_is_reported() -> None:
    pace = MetricsPace(1000)
    pace._last_time += 1e9  # no step is due for its time
    validated = {7: 0.5}
    steps = [StepMetrics(step=n, total_steps=1000, valid_loss=validated.get(n)) for n in range(1, 1001)]
    due = []
    for metrics in steps:
        if pace.is_due(metrics):
            due.append(metrics.step)
            pace._last_time += 1e9
    assert due[:4] == [1, 7, 17, 27] and due[-1] == 1000
