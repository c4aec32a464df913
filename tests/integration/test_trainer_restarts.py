"""A trainer is started again on the same spec, as Kubernetes does after a crash or an eviction: after its end, after
being killed at any moment, and while an older one still lives. In a folder and on a real S3 server.
"""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.object_storage import S3Bucket, StorageUnderTest, in_bucket, in_folder, new_bucket
from tests.fixtures.service import wait_until
from tests.fixtures.stored_runs import StoredRun, stored_run, wait_for_line
from tests.fixtures.tiny_model import build_tiny_model
from tests.fixtures.training_job import write_job
from tests.fixtures.training_run import run_here
from tuning.contract import RESULT_NAME, ErrorCode, ExitCode

STEPS = 111
"""37 rows one by one, three times: an epoch ends with step 37. Long enough to come in between."""
LONG: dict[str, Any] = {"batch_size": 1, "n_epochs": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def whole_adapter(tmp_path_factory: pytest.TempPathFactory, model: Path) -> str:
    """Of a run that nobody interrupted."""
    result = run_here(write_job(tmp_path_factory.mktemp("whole") / "job", model, **LONG))
    assert result is not None and result.adapter_sha256 is not None
    return result.adapter_sha256


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3Bucket]:
    yield from new_bucket()


@pytest.fixture(params=["filesystem", "s3"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageUnderTest]:
    if request.param == "filesystem":
        yield in_folder(tmp_path / "objects")
        return
    bucket: S3Bucket = request.getfixturevalue("bucket")
    yield in_bucket(bucket)
    bucket.resource.objects.all().delete()


@pytest.fixture
def run(stored: StorageUnderTest, tmp_path: Path, model: Path) -> StoredRun:
    return stored_run(tmp_path / "job", model, stored, **LONG)


def wait_for_step(process: subprocess.Popen[str], step: int) -> None:
    wait_for_line(process, lambda line: f"step {step}/" in line)


def wait_for_loading(run: StoredRun) -> None:
    wait_until(lambda: any((run.job.folder / "work").glob("*/training.arrow")), 60, "the data was not read")


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def steps_by_start(run: StoredRun) -> list[tuple[int, list[int]]]:
    """After which step each start went on, and the steps that it told."""
    starts: list[tuple[int, list[int]]] = []
    for event in run.events():
        if event["type"] == "started":
            starts.append((event["resumed_step"], []))
        elif event["type"] == "metrics":
            starts[-1][1].append(event["metrics"]["step"])
    return starts


def wait_until_told(run: StoredRun, starts: int) -> None:
    """A step of the latest of so many starts is in storage."""
    wait_until(lambda: len(steps := steps_by_start(run)) == starts and steps[-1][1] != [], 120, "no step was told")


def check_finished(run: StoredRun, adapter_sha256: str) -> None:
    """Once, by whoever started last, with the adapter of a run that nobody interrupted."""
    result = run.result()
    assert result is not None and result.adapter_sha256 == adapter_sha256
    events = run.events()
    assert [event["type"] for event in events].count("finished") == 1 and events[-1]["type"] == "finished"
    for resumed_step, steps in steps_by_start(run):
        assert steps == list(range(resumed_step + 1, resumed_step + 1 + len(steps)))
    assert steps_by_start(run)[-1][1][-1] == STEPS
    rows = run.objects()["run/step_metrics.csv"].decode().splitlines()[1:]
    assert [int(row.partition(",")[0]) for row in rows] == list(range(1, STEPS + 1))


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_adapter(run: StoredRun, whole_adapter: str) -> None:
    process = run.start()
    wait_for_loading(run)
    kill(process)
    assert run.objects() == {}

    process = run.start()
    wait_until_told(run, 1)
    kill(process)

    process = run.start()  # no state was saved: from the first step
    wait_for_step(process, 50)
    process.terminate()
    code, log = run.to_end(process)
    assert code == ExitCode.PREEMPTED, log
    [state] = [event for event in run.events() if event["type"] == "state_saved"]

    process = run.start()  # from the state
    wait_until_told(run, 3)
    kill(process)

    code, log = run.to_end()  # from the same state
    assert code == ExitCode.OK, log
    check_finished(run, whole_adapter)
    assert [resumed for resumed, _ in steps_by_start(run)] == [0, 0, state["step"], state["step"]]
    repeats = [event["message"] for event in run.events() if event["type"] == "message"]
    assert len(repeats) == 2
    assert "before it could save its state. It starts from the first step" in repeats[0]
    assert f"It goes on after step {state['step']}" in repeats[1]

    left = run.objects()
    code, log = run.to_end()  # there is nothing left to do
    assert code == ExitCode.OK and "ended already" in log
    assert run.objects() == left


def test_of_two_at_once_one_ends_the_run_and_the_other_leaves(run: StoredRun, whole_adapter: str) -> None:
    processes = [run.start(), run.start()]
    ends = [run.to_end(process) for process in processes]
    assert sorted(code for code, _ in ends) == [ExitCode.OK, ExitCode.PREEMPTED], ends
    check_finished(run, whole_adapter)


def test_an_old_trainer_that_comes_back_leaves_without_a_trace(run: StoredRun, whole_adapter: str) -> None:
    old = run.start({"FETTLE_CONTAINER_NAME": "old"})
    wait_for_step(old, 3)
    old.send_signal(signal.SIGSTOP)
    try:
        code, log = run.to_end()
        assert code == ExitCode.OK, log
        left = run.objects()
    finally:
        old.send_signal(signal.SIGCONT)
    code, log = run.to_end(old)
    assert code == ExitCode.PREEMPTED and "another start of this run" in log, log
    check_finished(run, whole_adapter)
    # Its own log is its own, and may have been stored before it was stopped.
    assert {**run.objects(), "logs/0001-old.log": b""} == {**left, "logs/0001-old.log": b""}


def test_an_old_trainer_that_is_told_to_stop_loses_no_step_of_the_new_one(run: StoredRun, whole_adapter: str) -> None:
    """The state of a start that was taken over is never the newest."""
    old = run.start()
    wait_for_step(old, 3)
    old.send_signal(signal.SIGSTOP)
    new = run.start()
    try:
        wait_for_step(new, 40)
    finally:
        old.terminate()
        old.send_signal(signal.SIGCONT)
    assert run.to_end(old)[0] == ExitCode.PREEMPTED
    code, log = run.to_end(new)
    assert code == ExitCode.OK, log
    check_finished(run, whole_adapter)
    assert not any(event["type"] == "state_saved" for event in run.events())


def test_a_second_start_after_a_failure_exits_at_once_with_the_same_code(tmp_path: Path, model: Path) -> None:
    run = stored_run(tmp_path / "job", model, in_folder(tmp_path / "objects"))
    (tmp_path / "job" / "training.jsonl").unlink()
    assert run.to_end()[0] == ExitCode.USER_ERROR
    left = run.objects()
    assert "failed (deleted_training_file)" in left["logs/0001-trainer.log"].decode()
    code, log = run.to_end()
    assert code == ExitCode.USER_ERROR and "ended already" in log
    assert run.objects() == left
    result = run.result()
    assert result is not None and result.error is not None
    assert result.error.code is ErrorCode.DELETED_TRAINING_FILE


def test_a_trainer_killed_right_before_it_wrote_its_result_has_ended_the_run(tmp_path: Path, model: Path) -> None:
    run = stored_run(tmp_path / "job", model, in_folder(tmp_path / "objects"))
    process = run.start()
    process.communicate()
    result = tmp_path / "objects" / "run" / RESULT_NAME
    before = result.read_bytes()
    result.unlink()
    again = run.start()
    _, log = again.communicate()
    assert again.returncode == ExitCode.OK and "an earlier start has ended the run" in log
    assert result.read_bytes() == before


def test_sigterm_while_loading_exits_75_and_takes_nothing_over(tmp_path: Path, model: Path) -> None:
    run = stored_run(tmp_path / "job", model, in_folder(tmp_path / "objects"), **LONG)
    process = run.start()
    wait_for_loading(run)
    process.terminate()
    code, log = run.to_end(process)
    assert code == ExitCode.PREEMPTED, log
    assert run.events() == [] and run.result() is None
    assert list((run.job.folder / "work").iterdir()) == []


def test_a_damaged_state_gives_way_to_that_of_the_attempt_before(
    tmp_path: Path, model: Path, whole_adapter: str
) -> None:
    run = stored_run(tmp_path / "job", model, in_folder(tmp_path / "objects"), **LONG)
    spec = run.job.spec
    assert run_here(run.job, stop_after=20) is None
    [first] = [event for event in run.events() if event["type"] == "state_saved"]
    second = spec.model_copy(
        update={
            "attempt": 2,
            "output_uri": spec.output_uri + "-2",
            "resume_from": f"{spec.output_uri}/{first['folder']}",
        }
    )
    assert run_here(run.job, second, stop_after=30) is None
    [damaged] = (tmp_path / "objects" / "run-2" / "state").iterdir()
    (damaged / "optimizer.pt").write_bytes(b"nothing of worth")
    result = run_here(run.job, second)
    assert result is not None and result.adapter_sha256 == whole_adapter
    told = (tmp_path / "objects" / "run-2" / "events").iterdir()
    text = "".join(path.read_text() for path in told)
    assert "its file optimizer.pt is damaged. Training goes on from an older one, after step 20." in text
    assert "interrupted after step 30 before it could save its state. It goes on after step 20" in text
