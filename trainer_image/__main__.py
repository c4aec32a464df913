"""`python -m trainer_image <spec uri>`: read the spec, run it, write the result last.

Exit codes: 0 done; 64 failed for a reason in `result.json`; 75 stopped by SIGTERM, start again; else a crash, whose
trace is in the log. Credentials come from the environment (AWS_*, WANDB_*), nothing that decides about the run does.
"""

import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from trainer_image import artifacts
from trainer_image.errors import TrainingFailed, as_exhaustion
from trainer_image.reporting import EventReporter
from tuning.contract import RESULT_NAME, ExitCode, JobError, JobResult, JobSpec

log = logging.getLogger("trainer")

LIBRARY_SETTINGS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # TRL's too
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    # Threads that spin while they wait run several times slower as soon as anybody else wants the cores.
    "OMP_WAIT_POLICY": "PASSIVE",
    "CUDA_VISIBLE_DEVICES": "0",  # one process, one GPU: TRL refuses to see more
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_INIT_TIMEOUT": "30",  # seconds
}


def main(spec_uri: str) -> int:
    signal.signal(signal.SIGTERM, _exit_preempted)  # StepProgress takes over in the loop
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    for name, value in LIBRARY_SETTINGS.items():
        os.environ.setdefault(name, value)

    spec = JobSpec.model_validate_json(artifacts.read_bytes(spec_uri))
    result = _execute(spec)
    artifacts.write_bytes(f"{spec.output_uri}/{RESULT_NAME}", result.model_dump_json(indent=1).encode())
    if result.error is None:
        log.info("done: adapter %s, seconds by stage %s", result.adapter_sha256, result.seconds)
        return ExitCode.OK
    log.error("failed (%s): %s", result.error.code, result.error.message)
    return ExitCode.USER_ERROR


def _execute(spec: JobSpec) -> JobResult:
    """Events are up and the work folder is gone when this returns; a crash goes on as it was raised."""
    work_root = os.environ.get("FETTLE_WORK_DIR")
    try:
        with (
            EventReporter(spec.output_uri) as reporter,
            tempfile.TemporaryDirectory(prefix=f"{spec.job_id}-", dir=work_root) as work_dir,
        ):
            # Imported here because torch and TRL take seconds, read the settings above, and must not delay SIGTERM.
            from trainer_image.run import run

            return run(spec, reporter, Path(work_dir))
    except TrainingFailed as failure:
        return _failed(spec, failure.error)
    except Exception as error:
        exhaustion = as_exhaustion(error, spec)
        if exhaustion is None:
            raise
        log.exception("out of memory or disk")
        return _failed(spec, exhaustion.error)


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
