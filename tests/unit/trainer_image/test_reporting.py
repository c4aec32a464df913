import json
import time
from pathlib import Path

import pytest

from tests.fixtures.service import wait_until
from trainer_image.earlier_starts import EarlierStarts
from trainer_image.reporting import EventReporter, MetricsPace, TakenOver
from tuning.contract import (
    ErrorCode,
    ExitCode,
    JobError,
    JobResult,
    MessageEvent,
    MetricsEvent,
    StartedEvent,
    StateSavedEvent,
    StepMetrics,
    TrainingEvent,
    event_part_name,
)

RESULT = JobResult(job_id="ftjob-1", attempt=1, error=None, adapter_sha256="0" * 64, trained_tokens=9, steps=1)
FAILURE = JobResult(job_id="ftjob-1", attempt=1, error=JobError(code=ErrorCode.DISK_FULL, message="full"))


def message(number: int) -> MessageEvent:
    return MessageEvent(created_at=number, level="info", message=f"event {number}")


def started() -> StartedEvent:
    return StartedEvent(created_at=time.time(), total_steps=9, resumed_step=0, trainable_parameters=1)


def told(output: Path) -> list[str]:
    """Messages and types of events, a list of lines in the order of the parts."""
    lines = [json.loads(line) for part in sorted((output / "events").iterdir()) for line in part.open()]
    return [line.get("message", line["type"]) for line in lines]


def a_start(output: Path, *events: TrainingEvent) -> EventReporter:
    """It has told its events, and lives."""
    reporter = EventReporter(EarlierStarts(output.as_uri()))
    reporter.begin()
    for event in events:
        reporter.report(event)
    wait_until(lambda: not (reporter._pending or reporter._part), 10, "the events are not up")
    return reporter


def test_events_come_in_order_in_parts_without_gaps(tmp_path: Path) -> None:
    with EventReporter(EarlierStarts(tmp_path.as_uri())) as reporter:
        reporter.begin()
        for number in range(100):
            reporter.report(message(number))

    parts = sorted((tmp_path / "events").iterdir())
    assert [f"events/{part.name}" for part in parts] == [event_part_name(i + 1) for i in range(len(parts))]
    lines = [line for part in parts for line in part.read_text().splitlines()]
    assert [MessageEvent.model_validate_json(line) for line in lines] == [message(number) for number in range(100)]


def test_events_wait_for_a_storage_that_fails_for_a_while(tmp_path: Path) -> None:
    blocker = tmp_path / "out"
    with EventReporter(EarlierStarts(blocker.as_uri())) as reporter:
        reporter.begin()
        blocker.write_text("a file where the folder must be")
        reporter.report(message(1))
        blocker.unlink()
    assert (blocker / event_part_name(1)).read_text() == message(1).model_dump_json(exclude_none=True) + "\n"


def test_a_storage_that_still_fails_at_the_end_is_an_error(tmp_path: Path) -> None:
    reporter = EventReporter(EarlierStarts((tmp_path / "out").as_uri()))
    reporter.begin()
    (tmp_path / "out").write_text("a file where the folder must be")
    reporter.report(message(1))
    with pytest.raises(OSError):
        reporter.close()


def test_a_later_start_knows_what_was_told_and_goes_on_after_it(tmp_path: Path) -> None:
    metrics = MetricsEvent(created_at=1, metrics=StepMetrics(step=4, total_steps=9))
    saved = StateSavedEvent(created_at=1, step=4, folder="state/step-4-ab")
    a_start(tmp_path, started()).close()
    a_start(tmp_path, started(), metrics, saved).close()
    first = EarlierStarts(tmp_path.as_uri()).next_part
    for number in range(first, first + 200):  # more than are read at once
        (tmp_path / event_part_name(number)).write_text(message(number).model_dump_json() + "\n")
    earlier = EarlierStarts(tmp_path.as_uri())
    assert (earlier.starts, earlier.last_step, earlier.result) == (2, 4, None)
    assert earlier.state_uri == f"{tmp_path.as_uri()}/state/step-4-ab"
    assert earlier.next_part == first + 200


def test_a_state_of_an_earlier_release_is_found_under_its_step(tmp_path: Path) -> None:
    a_start(tmp_path, StateSavedEvent(created_at=1, step=4)).close()
    assert EarlierStarts(tmp_path.as_uri()).state_uri == f"{tmp_path.as_uri()}/state/step-4"


def test_a_start_that_was_taken_over_is_told_and_writes_nothing_more(tmp_path: Path) -> None:
    older = a_start(tmp_path, started())
    newer = a_start(tmp_path, message(1))
    older.raise_if_taken_over()
    older.report(message(2))
    wait_until(lambda: older._taken_over is not None, 10, "the older start did not notice")
    with pytest.raises(TakenOver) as takeover:
        older.raise_if_taken_over()
    assert takeover.value.code == ExitCode.PREEMPTED
    older.report(message(3))
    with pytest.raises(TakenOver):
        older.close()
    newer.finish(RESULT)
    assert told(tmp_path) == ["started", "event 1", "finished"]


@pytest.mark.parametrize("result", [RESULT, FAILURE], ids=["success", "failure"])
def test_only_the_owner_of_a_run_ends_it(tmp_path: Path, result: JobResult) -> None:
    older = a_start(tmp_path, started())
    newer = a_start(tmp_path, started())
    with pytest.raises(TakenOver):
        older.finish(FAILURE)
    newer.finish(result)
    assert EarlierStarts(tmp_path.as_uri()).result == result


def test_a_start_leaves_when_another_began_while_it_was_loading(tmp_path: Path) -> None:
    loading = EventReporter(EarlierStarts(tmp_path.as_uri()))
    a_start(tmp_path, started()).close()
    with pytest.raises(TakenOver):
        loading.begin()
    assert told(tmp_path) == ["started"]


def test_what_an_older_start_saved_meanwhile_is_seen(tmp_path: Path) -> None:
    older = a_start(tmp_path, started())
    loading = EventReporter(EarlierStarts(tmp_path.as_uri()))
    older.report(StateSavedEvent(created_at=1, step=4, folder="state/step-4-ab"))
    older.close()
    earlier = loading.begin()
    assert earlier.state_uri is not None and earlier.state_uri.endswith("state/step-4-ab")
    loading.close()


def test_a_start_that_never_began_takes_nothing_over(tmp_path: Path) -> None:
    older = a_start(tmp_path, started())
    with EventReporter(EarlierStarts(tmp_path.as_uri())) as reporter:
        reporter.report(message(1))
    older.finish(RESULT)
    assert told(tmp_path) == ["started", "finished"]


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
