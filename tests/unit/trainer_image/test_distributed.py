"""Two trainers that meet in a store, each in a process of its own."""

import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.fixtures.tiny_model import build_tiny_model
from tests.fixtures.training_job import TrainingJob, write_job
from trainer_image.distributed import Group, follower_spec
from trainer_image.errors import TrainingFailed
from trainer_image.launch import Place
from tuning.contract import ErrorCode, JobSpec

Scenario = Callable[[Group, JobSpec], Any]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> JobSpec:
    model = tmp_path_factory.mktemp("model")
    build_tiny_model(model)
    job: TrainingJob = write_job(tmp_path_factory.mktemp("jobs") / "job", model, rows=3)
    return job.spec


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture
def store() -> dist.TCPStore:
    """As torchrun's agent holds it."""
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def place(rank: int, port: int) -> Place:
    return Place(rank=rank, size=2, processes_here=1, master_addr="127.0.0.1", master_port=port)


def play(scenario: Scenario, rank: int, port: int, spec: JobSpec) -> Any:
    try:
        return scenario(Group.join(place(rank, port)), spec)
    except TrainingFailed as failure:
        return failure.error.code, str(failure)
    except SystemExit as stop:
        return "left", stop.code
    except RuntimeError as error:
        return "crashed", str(error)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def play_both(processes: ProcessPoolExecutor, store: dist.TCPStore, spec: JobSpec, *scenarios: Scenario) -> list[Any]:
    """What the leader and the other one ended with."""
    first, second = scenarios if len(scenarios) == 2 else scenarios * 2
    futures = [
        processes.submit(play, first, 0, store.port, spec),
        processes.submit(play, second, 1, store.port, spec),
    ]
    return [future.result(timeout=60) for future in futures]


def add_up(group: Group, spec: JobSpec) -> Any:
    with group.loading(spec):
        pass
    weight, frozen = torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(1), requires_grad=False)
    if group.is_leader:
        weight.grad = torch.full((2, 3), 2.0)
    group.sum_gradients([weight, frozen])
    assert weight.grad is not None and frozen.grad is None
    return group.sum(group.rank, 0.5), weight.grad.tolist(), group.must_stop(not group.is_leader)


def test_both_have_the_sums_and_the_gradients_of_one_that_had_none_count_as_zeros(
    processes: ProcessPoolExecutor, store: dist.TCPStore, spec: JobSpec
) -> None:
    assert play_both(processes, store, spec, add_up) == [([1.0, 1.0], [[2.0] * 3] * 2, True)] * 2


def diverge_in_the_second(group: Group, spec: JobSpec) -> Any:
    with group.loading(spec):
        pass
    try:
        with group.together(spec):
            if not group.is_leader:
                raise TrainingFailed(ErrorCode.DIVERGED, "the loss is nan", "learning_rate_multiplier")
    except TrainingFailed as failure:
        return failure.error.code, group.end(64)


def test_both_fail_with_the_reason_of_one_and_end_with_the_leaders_code(
    processes: ProcessPoolExecutor, store: dist.TCPStore, spec: JobSpec
) -> None:
    assert play_both(processes, store, spec, diverge_in_the_second) == [(ErrorCode.DIVERGED, 64)] * 2


def run_out_of_memory_in_the_second(group: Group, spec: JobSpec) -> Any:
    with group.loading(spec):
        if not group.is_leader:
            raise MemoryError


def test_both_fail_when_one_cannot_load(processes: ProcessPoolExecutor, store: dist.TCPStore, spec: JobSpec) -> None:
    first, second = play_both(processes, store, spec, run_out_of_memory_in_the_second)
    assert first == second and first[0] is ErrorCode.OUT_OF_MEMORY


def train_with_too_little_memory_in_the_second(group: Group, spec: JobSpec) -> Any:
    from trainer_image.data import load_rows
    from trainer_image.methods.step_trainer import build
    from trainer_image.methods.supervised import SupervisedTrainer
    from trainer_image.model import load_model, load_renderer

    score, calls = SupervisedTrainer.score, 0

    def run_out(trainer: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 and not group.is_leader:
            raise MemoryError
        return score(trainer, *arguments)

    with tempfile.TemporaryDirectory() as name, group.loading(spec):
        tokenizer, renderer = load_renderer(spec)
        rows, _ = load_rows(spec.training_data, renderer, Path(name) / "rows", "training_file")
        trainer = build(SupervisedTrainer, spec, load_model(spec, Path(name)), tokenizer, rows, Path(name), group)
    SupervisedTrainer.score = run_out  # type: ignore[method-assign]  # this process is a test's own
    trainer.train()
    group.check_weights(1, trainer.model.parameters())
    return trainer.has_less_room, trainer.data_collator.tokens_per_micro_batch


def test_both_do_a_step_again_when_one_ran_out_of_memory(
    processes: ProcessPoolExecutor, store: dist.TCPStore, spec: JobSpec
) -> None:
    assert play_both(processes, store, spec, train_with_too_little_memory_in_the_second) == [(True, 1024)] * 2


def compare_weights(group: Group, spec: JobSpec) -> Any:
    with group.loading(spec):
        pass
    group.check_weights(1, [torch.nn.Parameter(torch.ones(3))])
    group.check_weights(2, [torch.nn.Parameter(torch.full((3,), 1.0 + group.rank * 1e-7))])


def test_weights_that_differ_in_one_bit_stop_the_run(
    processes: ProcessPoolExecutor, store: dist.TCPStore, spec: JobSpec
) -> None:
    for outcome, message in play_both(processes, store, spec, compare_weights):
        assert outcome == "crashed" and "after step 2 the weights of trainers 1 of 2 differ" in message


def load(group: Group, spec: JobSpec) -> Any:
    with group.loading(spec):
        pass


def leave_preempted(group: Group, spec: JobSpec) -> Any:
    return "left", group.end(75)


def leave_with_an_error_of_its_own(group: Group, spec: JobSpec) -> Any:
    return "left", group.end(64)


@pytest.mark.parametrize(("leave", "code"), [(leave_preempted, 75), (leave_with_an_error_of_its_own, 1)])
def test_the_leader_does_not_wait_for_one_that_has_left(
    processes: ProcessPoolExecutor, store: dist.TCPStore, spec: JobSpec, leave: Scenario, code: int
) -> None:
    """An error that the leader does not know of would have no result: it counts as a crash."""
    assert play_both(processes, store, spec, load, leave) == [("left", code)] * 2


def meet_nobody(_group: Group, _spec: JobSpec) -> None:
    return None


HOLD_STORE = """
import time
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
time.sleep(300)
"""


def test_one_that_was_started_again_ends_the_others_and_waits_until_they_are_gone(
    processes: ProcessPoolExecutor, spec: JobSpec
) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD_STORE], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        processes.submit(play, meet_nobody, 1, port, spec).result(timeout=60)
        again: Future[Any] = processes.submit(play, load, 1, port, spec)
        leader = processes.submit(play, load, 0, port, spec)
        assert leader.result(timeout=60) == ("left", 75)
        assert not again.done()
    finally:
        holder.kill()
        holder.wait()
    assert again.result(timeout=60) == ("left", 75)


def test_dropout_follows_from_rank_and_step_and_leaves_other_randomness_alone() -> None:
    def drawn(rank: int, step: int) -> float:
        with Group(place(rank, 0), None).own_randomness(7, step):
            return float(torch.rand(()))

    before = torch.get_rng_state()
    assert len({drawn(rank, step) for rank in (0, 1) for step in (1, 2)}) == 4
    assert drawn(1, 2) == drawn(1, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_another_than_the_leader_writes_stays_in_its_folder(spec: JobSpec, tmp_path: Path) -> None:
    private = follower_spec(spec, tmp_path)
    assert {private.output_uri, private.logs_uri} == {f"{tmp_path.as_uri()}/run", f"{tmp_path.as_uri()}/logs"}
    assert private.wandb == () and private.adapters_uri == spec.adapters_uri
