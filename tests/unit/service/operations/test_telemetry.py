"""What a job's changes, a step, a load and a call to the executor add to the metrics."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.database.tables import JobRow
from service.executors.base import Execution, ExecutionLog, ExecutionState, ExecutorUnavailable, Launch, OnChange
from service.inference.routing import AdapterRefused, ServedModel
from service.operations.measured_executor import MeasuredExecutor
from service.operations.telemetry import Telemetry
from service.settings import Settings
from tuning.catalogue import Catalogue

BASE = "fettle-tiny"


def value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return telemetry.metrics.registry.get_sample_value(name, labels)


def job(status: str, **columns: Any) -> JobRow:
    return JobRow(status=status, base_model=BASE, created_at=100.0, due_at=time.time(), **columns)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(Settings())


def test_the_first_start_ends_the_wait_and_a_second_one_does_not(telemetry: Telemetry) -> None:
    telemetry.job_changed(job("queued"), job("running", started_at=160.0))
    telemetry.job_changed(job("queued", started_at=160.0), job("running", started_at=160.0))
    assert value(telemetry, "fettle_job_queue_seconds_sum", base_model=BASE) == 60
    assert value(telemetry, "fettle_job_queue_seconds_count", base_model=BASE) == 1


def test_an_end_counts_once_when_nothing_is_left_to_do(telemetry: Telemetry) -> None:
    columns = {"started_at": 160.0, "finished_at": 460.0, "trained_tokens": 1234}
    running, succeeded = job("running", started_at=160.0), job("succeeded", **columns)
    telemetry.job_changed(running, succeeded)
    assert value(telemetry, "fettle_jobs_ended_total", status="succeeded", code="") is None
    done = job("succeeded", **columns)
    done.due_at = None
    telemetry.job_changed(succeeded, done)
    assert value(telemetry, "fettle_jobs_ended_total", status="succeeded", code="") == 1
    assert value(telemetry, "fettle_job_run_seconds_sum", base_model=BASE, status="succeeded") == 300
    assert value(telemetry, "fettle_trained_tokens_total", base_model=BASE) == 1234


def test_a_failure_counts_by_its_code(telemetry: Telemetry) -> None:
    failed = job("failed", error={"code": "out_of_memory", "message": "", "param": None}, finished_at=200.0)
    failed.due_at = None
    telemetry.job_changed(job("failed"), failed)
    assert value(telemetry, "fettle_jobs_ended_total", status="failed", code="out_of_memory") == 1
    assert value(telemetry, "fettle_trained_tokens_total", base_model=BASE) is None


def test_a_step_that_breaks_is_timed_and_counted(telemetry: Telemetry) -> None:
    labels = {"work": "batch", "status": "in_progress"}
    with telemetry.step("batch", "batch_1", "in_progress"):
        pass
    with pytest.raises(RuntimeError), telemetry.step("batch", "batch_1", "in_progress"):
        raise RuntimeError
    assert value(telemetry, "fettle_step_seconds_count", **labels) == 2
    assert value(telemetry, "fettle_step_errors_total", **labels) == 1


@pytest.mark.parametrize(
    ("error", "outcome"), [(None, "loaded"), (AdapterRefused("no"), "refused"), (RuntimeError(), "failed")]
)
async def test_a_load_is_timed_by_its_outcome(telemetry: Telemetry, error: Exception | None, outcome: str) -> None:
    async def load(model: ServedModel) -> None:
        if error is not None:
            raise error

    entry = Catalogue.load(Settings().models_file).get(BASE)
    assert entry is not None
    try:
        await telemetry.measured_load(load)(ServedModel("ft:x", entry, None))
    except Exception as raised:
        assert raised is error
    assert value(telemetry, "fettle_adapter_load_seconds_count", base_model=BASE, outcome=outcome) == 1


class Place:
    """Where trainers would run: everything goes well but the check."""

    def __init__(self) -> None:
        self.started: list[Launch] = []

    async def start(self, launch: Launch) -> None:
        self.started.append(launch)

    async def observe(self, name: str) -> Execution:
        return Execution(ExecutionState.EXITED, 0)

    async def interrupt(self, name: str) -> None: ...

    async def stop(self, name: str) -> None: ...

    async def log_tail(self, name: str) -> str:
        return "the end"

    async def logs(self, name: str) -> AsyncIterator[ExecutionLog]:
        return
        yield

    async def watch(self, on_change: OnChange) -> None: ...

    async def check(self) -> None:
        raise ExecutorUnavailable("It does not answer.")


async def test_calls_of_an_executor_are_timed_and_passed_on(telemetry: Telemetry) -> None:
    executor = MeasuredExecutor(Place(), telemetry)
    assert (await executor.observe("one")).exit_code == 0
    assert await executor.log_tail("one") == "the end"
    with pytest.raises(ExecutorUnavailable):
        await executor.check()
    assert value(telemetry, "fettle_executor_call_seconds_count", call="observe", outcome="ok") == 1
    assert value(telemetry, "fettle_executor_call_seconds_count", call="check", outcome="failed") == 1
