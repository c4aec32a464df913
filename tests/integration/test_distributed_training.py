"""One run by several processes: the same numbers as by one, and the same ends, whatever becomes of one of them."""

import csv
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.fixtures.service import free_port, wait_until
from tests.fixtures.tiny_model import build_tiny_model
from tests.fixtures.training_job import TrainingJob, write_job
from tests.fixtures.training_run import run_here, start, train
from tuning.contract import ErrorCode, ExitCode, JobResult, ProcessesSpec, event_part_name

TWO = ProcessesSpec(per_node=2)
TWO_NODES = ProcessesSpec(nodes=2)
LONG = {"rows": 9, "batch_size": 4, "n_epochs": 60}
"""180 steps, long enough to be interrupted."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_tiny_model(folder)
    return folder


def job_of(
    processes: ProcessesSpec, folder: Path, model: Path, *, lora_dropout: float = 0.1, **changes: Any
) -> TrainingJob:
    job = write_job(folder, model, **changes)
    lora = job.spec.lora.model_copy(update={"lora_dropout": lora_dropout})
    spec = job.spec.model_copy(update={"processes": processes, "lora": lora})
    (folder / "spec.json").write_text(spec.model_dump_json())
    return TrainingJob(spec, folder)


def step_metrics(job: TrainingJob) -> list[dict[str, float]]:
    with (job.folder / "out" / "step_metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def adapter(job: TrainingJob, result: JobResult | None) -> dict[str, torch.Tensor]:
    assert result is not None and result.adapter_sha256 is not None
    return load_file(job.folder.parent / "adapters" / result.adapter_sha256 / "adapter_model.safetensors")


def log_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stderr is not None
    log = ""
    for line in process.stderr:
        log += line
        if text in line:
            return log
    raise AssertionError(f"it ended without {text!r}:\n{log}")


def log_to_end(process: subprocess.Popen[str]) -> str:
    _, log = process.communicate(timeout=120)
    return log


@pytest.fixture
def launched() -> Iterator[list[subprocess.Popen[str]]]:
    """Whatever a failing test leaves, with its trainers."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()


@pytest.mark.parametrize("method", ["supervised", "kto"])
def test_two_processes_train_what_one_trains(tmp_path: Path, model: Path, method: str) -> None:
    """The last step of an epoch has one example, and nothing for the second process."""
    size = {"rows": 9, "batch_size": 4, "validation_rows": 12, "lora_dropout": 0.0, "method": method}
    one = job_of(ProcessesSpec(), tmp_path / "one", model, **size)
    two = job_of(TWO, tmp_path / "two", model, **size)
    expected_result = run_here(one)
    code, log = train(two)
    assert code == ExitCode.OK, log

    compared = list(zip(step_metrics(one), step_metrics(two), strict=True))
    if method == "kto":
        del compared[:2]  # the model is its own reference still: rewards are what rounding leaves of 0
    for expected, actual in compared:
        assert actual == pytest.approx(expected, rel=1e-5, abs=1e-6)
    tensors = adapter(one, expected_result)
    for name, tensor in adapter(two, two.result()).items():
        torch.testing.assert_close(tensor, tensors[name], rtol=1e-3, atol=1e-5)
    assert [event["type"] for event in two.events()] == [event["type"] for event in one.events()] + ["finished"]
    assert two.result().trained_tokens == expected_result.trained_tokens
    assert list((two.folder / "work").iterdir()) == []


def test_a_stopped_run_goes_on_to_the_very_adapter_of_one_that_was_not(
    tmp_path: Path, model: Path, launched: list[subprocess.Popen[str]]
) -> None:
    whole, stopped = (job_of(TWO, tmp_path / name, model, **LONG) for name in ("whole", "stopped"))
    code, log = train(whole)
    assert code == ExitCode.OK, log

    process = start(stopped)
    launched.append(process)
    log = log_until(process, "step 1/")
    process.terminate()
    log += log_to_end(process)
    assert process.returncode == ExitCode.PREEMPTED, log
    assert stopped.result() is None
    [state] = [event for event in stopped.events() if event["type"] == "state_saved"]
    assert 0 < state["step"] < 180
    assert list((stopped.folder / "work").iterdir()) == []

    code, log = train(stopped)
    assert code == ExitCode.OK, log
    assert [event["resumed_step"] for event in stopped.events() if event["type"] == "started"] == [0, state["step"]]
    assert stopped.result().adapter_sha256 == whole.result().adapter_sha256
    assert step_metrics(stopped) == step_metrics(whole)


def test_a_users_error_is_told_once_and_ends_with_64(tmp_path: Path, model: Path) -> None:
    diverging = job_of(TWO, tmp_path / "diverging", model, learning_rate=1e30, max_grad_norm=0.0)
    code, log = train(diverging)
    assert code == ExitCode.USER_ERROR, log
    assert diverging.result().error.code is ErrorCode.DIVERGED

    changed = job_of(TWO, tmp_path / "changed", model)
    path = changed.folder / "training.jsonl"
    path.write_text(path.read_text().replace("3 plus 9", "3 times 9"))
    code, log = train(changed)
    assert code == ExitCode.USER_ERROR, log
    assert changed.result().error.code is ErrorCode.DATA_CHANGED
    # started again, it has nothing to do
    assert train(changed)[0] == ExitCode.USER_ERROR


def trainers(launcher: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """By rank."""
    children = psutil.Process(launcher.pid).children()
    return {int(child.environ()["RANK"]): child for child in children if "RANK" in child.environ()}


def test_a_killed_process_ends_all_of_them_at_once(
    tmp_path: Path, model: Path, launched: list[subprocess.Popen[str]]
) -> None:
    job = job_of(TWO, tmp_path / "job", model, **LONG | {"n_epochs": 2000})
    process = start(job)
    launched.append(process)
    log_until(process, "step 1/")
    both = trainers(process)
    killed_at = time.monotonic()
    both[1].kill()
    log = log_to_end(process)
    assert process.returncode in (1, 128 + signal.SIGKILL), log
    assert time.monotonic() - killed_at < 20
    assert not any(trainer.is_running() for trainer in both.values())
    assert job.result() is None


def test_a_run_that_another_start_took_over_ends_on_all_of_them_as_preempted(
    tmp_path: Path, model: Path, launched: list[subprocess.Popen[str]]
) -> None:
    job = job_of(TWO, tmp_path / "job", model, **LONG | {"n_epochs": 2000})
    process = start(job)
    launched.append(process)
    log = log_until(process, "step 1/")
    for number in range(1, 1000):
        with suppress(FileExistsError), (job.folder / "out" / event_part_name(number)).open("x"):
            break
    log += log_to_end(process)
    assert process.returncode == ExitCode.PREEMPTED, log
    assert "another start of this run goes on with it" in log and "Traceback" not in log, log


def test_trainers_do_not_outlive_a_killed_launcher(
    tmp_path: Path, model: Path, launched: list[subprocess.Popen[str]]
) -> None:
    job = job_of(TWO, tmp_path / "job", model, **LONG | {"n_epochs": 2000})
    process = start(job)
    launched.append(process)
    log_until(process, "step 1/")
    both = trainers(process)
    process.kill()
    wait_until(lambda: not any(trainer.is_running() for trainer in both.values()), 60, "the trainers did not end")
    assert "state_saved" in [event["type"] for event in job.events()]


def start_node(job: TrainingJob, rank: int, port: int) -> subprocess.Popen[str]:
    return start(job, {"FETTLE_NODE_RANK": str(rank), "FETTLE_MASTER_PORT": str(port)})


def test_two_nodes_stop_together_when_one_is_told_to_and_go_on_together(
    tmp_path: Path, model: Path, launched: list[subprocess.Popen[str]]
) -> None:
    job = job_of(TWO_NODES, tmp_path / "job", model, **LONG)
    port = free_port()
    second = start_node(job, 1, port)
    launched.append(second)
    log_until(second, "waiting for the first node")
    first = start_node(job, 0, port)
    launched.append(first)
    log_until(first, "step 1/")
    second.terminate()
    logs = [log_to_end(node) for node in (first, second)]
    assert [first.returncode, second.returncode] == [ExitCode.PREEMPTED] * 2, logs
    [state] = [event for event in job.events() if event["type"] == "state_saved"]

    nodes = [start_node(job, rank, port) for rank in (0, 1)]
    launched += nodes
    logs = [log_to_end(node) for node in nodes]
    assert [node.returncode for node in nodes] == [ExitCode.OK] * 2, logs
    assert [event["resumed_step"] for event in job.events() if event["type"] == "started"] == [0, state["step"]]
    assert [row["step"] for row in step_metrics(job)] == list(range(1, 181))


@pytest.mark.parametrize(("rank", "text"), [(0, "node 0 of 2 starts"), (1, "waiting for the first node")])
def test_a_node_that_waits_for_the_other_can_be_stopped(
    tmp_path: Path, model: Path, launched: list[subprocess.Popen[str]], rank: int, text: str
) -> None:
    port = free_port()
    node = start_node(job_of(TWO_NODES, tmp_path / "job", model), rank, port)
    launched.append(node)
    log_until(node, text)
    if rank == 0:  # it waits in torch, once its store listens
        wait_until(lambda: listens(node, port), 60, "the store did not listen")
    node.terminate()
    log = log_to_end(node)
    assert node.returncode == ExitCode.PREEMPTED, log


def listens(process: subprocess.Popen[str], port: int) -> bool:
    connections = psutil.Process(process.pid).net_connections("tcp")
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections)
