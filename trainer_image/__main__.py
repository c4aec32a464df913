"""`python -m trainer_image <spec uri>`: read the spec, run it, write the result last.

It may be started again on the same spec, after a crash or an eviction: it then goes on where the run is, or ends at
once when the run has a result. Of two that live at once the older one leaves. A run of several processes starts
itself anew as a trainer for each of this node's: see `launch`.

Exit codes: 0 done; 64 failed for a reason in `result.json`; 75 stopped by SIGTERM, start again; else a crash, whose
trace is in the log. Credentials come from the environment (AWS_*, WANDB_*), nothing that decides about the run does.
"""

import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn, cast

from trainer_image import artifacts
from trainer_image.earlier_starts import EarlierStarts
from trainer_image.errors import TrainingFailed, as_exhaustion
from trainer_image.launch import Place, launch, take_place
from trainer_image.live_log import LiveLog
from trainer_image.reporting import EventReporter, TakenOver
from tuning.contract import RESULT_NAME, ExitCode, JobError, JobResult, JobSpec

if TYPE_CHECKING:
    from trainer_image.distributed import Group

log = logging.getLogger("trainer")

LIBRARY_SETTINGS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # TRL's too
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    # Threads that spin while they wait run several times slower as soon as anybody else wants the cores.
    "OMP_WAIT_POLICY": "PASSIVE",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_INIT_TIMEOUT": "30",  # seconds
}


def main(spec_uri: str) -> int:
    signal.signal(signal.SIGTERM, _exit_preempted)  # StepProgress takes over in the loop
    place = take_place()
    is_follower = place is not None and place.rank > 0
    logging.basicConfig(
        level=logging.WARNING if is_follower else logging.INFO,
        format=f"%(asctime)s {f'[trainer {place.rank}] ' if place is not None and is_follower else ''}%(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it recommends packages
    for name, value in LIBRARY_SETTINGS.items():
        os.environ.setdefault(name, value)

    spec = JobSpec.model_validate_json(artifacts.read_bytes(spec_uri))
    result = _stored_result(spec)
    if result is not None:
        log.info("this run has ended already: there is nothing to do")
        return _exit_code(result)
    if place is not None:
        return _train_in_group(spec, place)
    if spec.processes.nodes * spec.processes.per_node > 1:
        return launch(spec_uri, spec)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # one process, one GPU: TRL refuses to see more
    return _train_to_result(spec, None)


def _train_in_group(spec: JobSpec, place: Place) -> int:
    # Imported here because torch takes seconds, and must not delay SIGTERM.
    from trainer_image.distributed import Group, follower_spec

    group = Group.join(place)
    work_root = os.environ.get("FETTLE_WORK_DIR")
    with tempfile.TemporaryDirectory(prefix=f"{spec.job_id}-", dir=work_root) as folder:
        try:
            code = _train_to_result(spec if group.is_leader else follower_spec(spec, Path(folder)), group)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    return group.end(code)


def _train_to_result(spec: JobSpec, group: "Group | None") -> int:
    with LiveLog(spec):
        try:
            result = _execute(spec, group)
            _store_result(spec, result)
        except TakenOver as takeover:
            log.warning("stopping without a trace: %s", takeover.reason)
            raise
        except Exception:
            log.critical("the trainer crashed", exc_info=True)
            return 1
        if result.error is None:
            log.info("done: adapter %s, seconds by stage %s", result.adapter_sha256, result.seconds)
        else:
            log.error("failed (%s): %s", result.error.code, result.error.message)
    return _exit_code(result)


def _execute(spec: JobSpec, group: "Group | None") -> JobResult:
    """All events are up when this returns, the result among them."""
    earlier = EarlierStarts(spec.output_uri)
    if earlier.result is not None:
        log.info("an earlier start has ended the run, and lacked the time to write %s", RESULT_NAME)
        return earlier.result
    with EventReporter(earlier) as reporter:
        result = _train(spec, reporter, group)
        reporter.finish(result)
    return result


def _train(spec: JobSpec, reporter: EventReporter, group: "Group | None") -> JobResult:
    """The work folder is gone when this returns; a crash goes on as it was raised."""
    work_root = os.environ.get("FETTLE_WORK_DIR")
    try:
        with tempfile.TemporaryDirectory(prefix=f"{spec.job_id}-", dir=work_root) as work_dir:
            if spec.lora.quantization == "none" and __name__ == "__main__":
                # PEFT imports it wherever it is installed, which takes a second. In a process of our own it looks as if
                # it were not.
                sys.modules.setdefault("bitsandbytes", cast(ModuleType, None))
            # Imported here because torch and TRL take seconds, read the settings above, and must not delay SIGTERM.
            from trainer_image.distributed import ALONE
            from trainer_image.run import run

            return run(spec, reporter, Path(work_dir), group or ALONE)
    except TrainingFailed as failure:
        return _failed(spec, failure.error)
    except Exception as error:
        exhaustion = as_exhaustion(error, spec)
        if exhaustion is None:
            raise
        log.exception("out of memory or disk")
        return _failed(spec, exhaustion.error)


def _stored_result(spec: JobSpec) -> JobResult | None:
    try:
        return JobResult.model_validate_json(artifacts.read_bytes(f"{spec.output_uri}/{RESULT_NAME}"))
    except FileNotFoundError:
        return None


def _store_result(spec: JobSpec, result: JobResult) -> None:
    try:
        artifacts.create_bytes(f"{spec.output_uri}/{RESULT_NAME}", result.model_dump_json(indent=1).encode())
    except artifacts.WrittenByAnother as error:
        raise TakenOver(str(error)) from error


def _exit_code(result: JobResult) -> int:
    return ExitCode.OK if result.error is None else ExitCode.USER_ERROR


def _exit_preempted(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break into the cleaning up
    sys.exit(ExitCode.PREEMPTED)


def _failed(spec: JobSpec, error: JobError) -> JobResult:
    return JobResult(job_id=spec.job_id, attempt=spec.attempt, error=error)


def _run_and_leave(spec_uri: str) -> NoReturn:
    """Leaves without what libraries do at exit: wandb would wait for a server that may never answer again."""
    code: int
    try:
        code = main(spec_uri)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        log.critical("the trainer crashed", exc_info=True)
        code = 1
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m trainer_image <spec uri>")
    _run_and_leave(sys.argv[1])
