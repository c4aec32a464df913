"""Several trainers on one run: torchrun's agent starts those of this node, and its place in the group is told to each.

The other nodes run the same command. `FETTLE_NODE_RANK` says which of them this is, `FETTLE_MASTER_ADDR` and
`FETTLE_MASTER_PORT` where the first one can be reached. Nothing is started again here: that is the executor's.
"""

import ctypes
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from datetime import timedelta
from typing import NamedTuple

from tuning.contract import ExitCode, JobSpec

log = logging.getLogger("trainer")

DEFAULT_MASTER_PORT = 29500  # torchrun's own
OTHER_NODES_TIMEOUT = timedelta(minutes=15)
"""For the other nodes to come up. Then this one gives its GPUs back, which another run may be waiting for: that is no
crash, and it is started again as one that was stopped."""
STOP_TIMEOUT = timedelta(hours=1)
"""For a state to be saved after SIGTERM. Whoever sent it has a shorter patience, and ends it with SIGKILL."""
SECONDS_BETWEEN_CALLS = 1.0
PR_SET_PDEATHSIG = 1


class Place(NamedTuple):
    """Of one trainer in its group."""

    rank: int
    size: int
    processes_here: int
    master_addr: str
    master_port: int


def take_place() -> Place | None:
    """None: this process was not started by torchrun.

    Takes torchrun's variables out of the environment: accelerate would see them, wrap the model and share out the data
    in its own way.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # a launcher that was killed leaves nobody behind
    place = Place(
        rank=int(os.environ["RANK"]),
        size=int(os.environ["WORLD_SIZE"]),
        processes_here=int(os.environ["LOCAL_WORLD_SIZE"]),
        master_addr=os.environ["MASTER_ADDR"],
        master_port=int(os.environ["MASTER_PORT"]),
    )
    for name in list(os.environ):
        if name.startswith(("TORCHELASTIC_", "MASTER_")) or name.endswith(("RANK", "WORLD_SIZE")):
            del os.environ[name]
    return place


def launch(spec_uri: str, spec: JobSpec) -> int:
    """The exit code: that of the trainer of this node which ended first, if it was not 0."""
    processes, node_rank = spec.processes, int(os.environ.get("FETTLE_NODE_RANK", "0"))
    if not 0 <= node_rank < processes.nodes:
        raise ValueError(f"FETTLE_NODE_RANK is {node_rank}, and the run has {processes.nodes} nodes, counted from 0")
    master_addr, master_port = _master(processes.nodes)
    if node_rank > 0 and not _is_reachable(master_addr, master_port):
        return ExitCode.PREEMPTED
    log.info("node %d of %d starts %d trainers", node_rank, processes.nodes, processes.per_node)
    if processes.nodes == 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the machine's own name may resolve to nothing
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost connection is worth one line, not a C++ trace
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes.per_node)))

    # Imported here because torch takes seconds, reads the settings above, and must not delay SIGTERM.
    from torch.distributed import DistStoreError
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory(prefix="launch-", dir=os.environ.get("FETTLE_WORK_DIR")) as log_dir:
        config = LaunchConfig(
            min_nodes=processes.nodes,
            max_nodes=processes.nodes,
            nproc_per_node=processes.per_node,
            run_id=spec.job_id,
            rdzv_backend="static",
            rdzv_endpoint=f"{master_addr}:{master_port}",
            rdzv_configs={"rank": node_rank, "timeout": OTHER_NODES_TIMEOUT.seconds},
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=log_dir),
            virtual_local_rank=True,  # each trainer sees its own GPU only
            shutdown_timeout=int(STOP_TIMEOUT.total_seconds()),
        )
        _leave_on_sigterm_before_start()
        try:
            elastic_launch(config, sys.executable)("-m", "trainer_image", spec_uri)
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            code = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode  # as a shell tells a signal
            log.warning("trainer %d ended with exit code %d", rank, code)
            return code
        except DistStoreError as error:
            log.warning("the other nodes were not all there within %s: %s", OTHER_NODES_TIMEOUT, error)
            return ExitCode.PREEMPTED
        except SignalException as stop:
            return ExitCode.PREEMPTED if stop.sigval == signal.SIGTERM else 128 + stop.sigval
    return ExitCode.OK


def _master(nodes: int) -> tuple[str, int]:
    addr, port = os.environ.get("FETTLE_MASTER_ADDR", "127.0.0.1"), os.environ.get("FETTLE_MASTER_PORT")
    if port is not None:
        return addr, int(port)
    if nodes > 1:
        return addr, DEFAULT_MASTER_PORT
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return addr, int(free.getsockname()[1])


def _is_reachable(addr: str, port: int) -> bool:
    """Waits until the first node listens: its pod may not have started, and its name not be known yet. torch waits as
    well, but in C, where it cannot be interrupted."""
    deadline = time.monotonic() + OTHER_NODES_TIMEOUT.total_seconds()
    log.info("waiting for the first node at %s:%d", addr, port)
    while True:
        try:
            socket.create_connection((addr, port), timeout=5).close()
            return True
        except OSError as error:
            if time.monotonic() > deadline:
                log.warning(
                    "the first node did not answer at %s:%d within %s: %s", addr, port, OTHER_NODES_TIMEOUT, error
                )
                return False
        time.sleep(SECONDS_BETWEEN_CALLS)


def _leave_on_sigterm_before_start() -> None:
    """torch waits for the other nodes in C, where no handler of Python's runs: a thread hears of the signal there. Once
    the trainers are started, torchrun handles it."""
    handler = signal.getsignal(signal.SIGTERM)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def watch(_writer: socket.socket) -> None:
        while number := reader.recv(1):
            if number[0] == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is handler:
                os._exit(ExitCode.PREEMPTED)

    threading.Thread(target=watch, args=(writer,), name="sigterm", daemon=True).start()
