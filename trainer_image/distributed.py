"""A run shared by several trainers: each has the whole model and its part of every step's examples.

The first is the leader. It alone owns the run in storage; the others keep theirs in their work folder, where nobody
reads it. Gradients and numbers are added up, so that after each step all have the same weights and know the same.

They talk through torchrun's store as long as they may have to wait for one another, because only there a wait can be
broken off; and through collectives once all of them are ready to train. A trainer that leaves the group says so in the
store, and those that lose it in a collective end as it did.
"""

import hashlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from trainer_image.errors import TrainingFailed, as_exhaustion
from trainer_image.launch import Place
from tuning.contract import ExitCode, JobError, JobSpec

log = logging.getLogger("trainer")

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""The others wait in one while the leader uploads an adapter. A trainer that dies is noticed at once; one whose machine
lost its power, after this."""
STORE_TIMEOUT = timedelta(minutes=1)
INFORM_TIMEOUT = timedelta(seconds=5)
SECONDS_BETWEEN_LOOKS = 0.1


class Group:
    """The trainers of a run, seen from one of them. Alone, everything here does nothing."""

    def __init__(self, place: Place, store: Store | None) -> None:
        self.rank = place.rank
        self.size = place.size
        self.processes_here = place.processes_here
        self._has_other_nodes = place.size > place.processes_here
        self._store = store
        self._has_agreed = False
        """All of them end, and for the same reason."""

    @property
    def is_leader(self) -> bool:
        return self.rank == 0

    # --- while loading: through the store -------------------------------------------------------------------------

    @classmethod
    def join(cls, place: Place) -> "Group":
        client = TCPStore(place.master_addr, place.master_port, is_master=False, timeout=STORE_TIMEOUT)
        store = PrefixStore("fettle", client)
        group = cls(place, store)
        if store.add(f"joined/{place.rank}", 1) > 1:
            # This node was started again, and the others are still in the run that it was lost from.
            log.warning("the other trainers have not ended yet: waiting for that")
            store.compare_set("end", "", str(int(ExitCode.PREEMPTED)))
            group._wait_until_gone()
        return group

    @contextmanager
    def loading(self, spec: JobSpec) -> Iterator[None]:
        """Ends when all are through, and connects them. A TrainingFailed of one is raised by all."""
        failure = None
        try:
            yield
        except Exception as error:
            failure = self._failure_to_share(error, spec)
        if self._store is None:
            return
        self._store.set(f"failure/{self.rank}", _as_text(failure))
        self._store.set(f"device/{self.rank}", "GPU" if torch.cuda.is_available() else "CPU")
        self._store.add("loaded", 1)
        self._wait_for(lambda store: store.add("loaded", 0) == self.size)
        self._raise_first(self._store.get(f"failure/{rank}").decode() for rank in range(self.size))
        self._connect(self._store)

    def _connect(self, store: Store) -> None:
        devices = [store.get(f"device/{rank}").decode() for rank in range(self.size)]
        if len(set(devices)) > 1:
            raise RuntimeError(f"the trainers must have a GPU each, or none of them; they have: {', '.join(devices)}")
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if devices[0] == "GPU" else "gloo",
            store=PrefixStore("collectives", store),
            rank=self.rank,
            world_size=self.size,
            timeout=COLLECTIVE_TIMEOUT,
        )

    # --- while training: through collectives ----------------------------------------------------------------------

    def from_leader(self, value: str | None) -> str | None:
        """The leader's value, for all."""
        values = [value]
        if self.size > 1:
            with _collective():
                dist.broadcast_object_list(values, src=0)
        return values[0]

    @contextmanager
    def together(self, spec: JobSpec) -> Iterator[None]:
        """What makes one of them fail makes all of them fail, with the same TrainingFailed."""
        failure = None
        try:
            yield
        except Exception as error:
            failure = self._failure_to_share(error, spec)
        if self.size > 1 and self.sum(failure is not None)[0] > 0:
            self._raise_first(self._from_all(_as_text(failure)))

    def sum(self, *values: float) -> list[float]:
        """Exact for whole numbers."""
        if self.size == 1:
            return list(values)
        totals = torch.tensor(values, dtype=torch.float64)
        with _collective():
            dist.all_reduce(totals)
        answer: list[float] = totals.tolist()
        return answer

    def must_stop(self, is_told_to: bool) -> bool:
        """One that was told to is enough, and then all stop after the same step."""
        if self.size == 1:
            return is_told_to
        must_stop = self.sum(is_told_to)[0] > 0
        self._has_agreed = self._has_agreed or must_stop
        return must_stop

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """In one piece. A trainer that had no example in this step has no gradients, and adds zeros."""
        if self.size == 1:
            return
        weights = [weight for weight in parameters if weight.requires_grad]
        flat = torch.cat(
            [(torch.zeros_like(weight) if weight.grad is None else weight.grad).flatten() for weight in weights]
        )
        with _collective():
            dist.all_reduce(flat)
        for weight, gradient in zip(weights, torch.split(flat, [weight.numel() for weight in weights]), strict=True):
            weight.grad = gradient.view_as(weight)

    @contextmanager
    def own_randomness(self, seed: int, step: int) -> Iterator[None]:
        """Another dropout for each trainer, which follows from the step alone: a run that goes on has the same. What
        lies outside, such as the order of the rows, stays the same for all."""
        if self.size == 1:
            yield
            return
        digest = hashlib.sha256(f"{seed} {self.rank} {step}".encode()).digest()
        with torch.random.fork_rng():
            torch.manual_seed(int.from_bytes(digest[:7], "big"))
            yield

    def check_weights(self, step: int, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Raises RuntimeError when they are not the same bits everywhere: from then on nothing would be right."""
        if self.size == 1:
            return
        digest = hashlib.sha256(str(step).encode())
        for weight in parameters:
            if weight.requires_grad:
                digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        digests = self._from_all(digest.hexdigest())
        others = [str(rank) for rank in range(self.size) if digests[rank] != digests[0]]
        if others:
            raise RuntimeError(
                f"after step {step} the weights of trainers {', '.join(others)} of {self.size} differ from the first "
                "one's: their machines do not calculate alike. All nodes of a run need the same kind of GPU or CPU."
            )

    def _from_all(self, text: str) -> list[str]:
        texts = [""] * self.size
        with _collective():
            dist.all_gather_object(texts, text)
        return texts

    # --- at the end -----------------------------------------------------------------------------------------------

    def end(self, code: int) -> int:
        """Tells the others, and answers the code of them all: the leader's, or that of the first one that was lost."""
        if self._store is None:
            return code
        try:
            if self.is_leader or not (self._has_agreed or code == ExitCode.OK):
                return self._leave(self._store, code)
            # Whoever ends first ends all of them, and the leader has the last things to write.
            self._wait_for(lambda _: False)
        except SystemExit as told:
            assert isinstance(told.code, int)
            return told.code
        except RuntimeError as error:
            log.warning("the first node has gone already: %s", str(error).partition("\n")[0])
        return code

    def _leave(self, store: Store, code: int) -> int:
        if code == ExitCode.USER_ERROR and not self.is_leader:
            code = 1  # without a result: only the leader writes one
        first = int(store.compare_set("end", "", str(int(code))).decode())
        store.add("informed", 1)
        if self.is_leader and first in (ExitCode.OK, ExitCode.USER_ERROR, ExitCode.PREEMPTED):
            # The store ends with this node, and the others would take that for a crash.
            deadline = time.monotonic() + INFORM_TIMEOUT.total_seconds()
            while store.add("informed", 0) < self.size and time.monotonic() < deadline and self._has_other_nodes:
                time.sleep(SECONDS_BETWEEN_LOOKS)
        return first

    def _wait_for(self, condition: Callable[[Store], bool]) -> None:
        """Raises SystemExit when a trainer has left the group meanwhile. A signal is heard at any time."""
        assert self._store is not None
        while not condition(self._store):
            if self._store.check(["end"]):
                code = int(self._store.get("end").decode())
                self._store.add("informed", 1)
                log.info("another trainer of this run has ended with %d", code)
                sys.exit(code)
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _wait_until_gone(self) -> NoReturn:
        assert self._store is not None
        try:
            while True:
                self._store.check(["end"])
                time.sleep(10 * SECONDS_BETWEEN_LOOKS)
        except RuntimeError:
            sys.exit(ExitCode.PREEMPTED)

    # --- failures -------------------------------------------------------------------------------------------------

    def _failure_to_share(self, error: Exception, spec: JobSpec) -> TrainingFailed:
        """Raises `error` when it is a crash, or when there is nobody to share it with."""
        failure = error if isinstance(error, TrainingFailed) else as_exhaustion(error, spec)
        if failure is None or self.size == 1:
            raise error
        if failure is not error:
            log.error("trainer %d ran out of something", self.rank, exc_info=error)
        return failure

    def _raise_first(self, failures: Iterable[str]) -> None:
        for text in filter(None, failures):
            self._has_agreed = True
            error = JobError.model_validate_json(text)
            raise TrainingFailed(error.code, error.message, error.param)


@contextmanager
def _collective() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo's and NCCL's: a connection broke off, or nobody came
        log.warning("another trainer of this run was lost: %s", str(error).partition("\n")[0])
        sys.exit(1)


def follower_spec(spec: JobSpec, folder: Path) -> JobSpec:
    """The same training, for a trainer that is not the leader: what it writes stays in `folder`."""
    private = {"output_uri": (folder / "run").as_uri(), "logs_uri": (folder / "logs").as_uri(), "wandb": ()}
    return spec.model_copy(update=private)


def _as_text(failure: TrainingFailed | None) -> str:
    return "" if failure is None else failure.error.model_dump_json()


ALONE = Group(Place(rank=0, size=1, processes_here=1, master_addr="", master_port=0), None)
