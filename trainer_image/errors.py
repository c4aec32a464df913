"""How a run fails for a reason that the user can act on; anything else that is raised is a crash and tried again."""

import errno

from tuning.contract import ErrorCode, JobError, JobSpec


class TrainingFailed(Exception):
    """Another attempt with the same spec would end in the same way."""

    def __init__(self, code: ErrorCode, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.error = JobError(code=code, message=message, param=param)


def as_exhaustion(error: Exception, spec: JobSpec) -> TrainingFailed | None:
    """What ran out, memory or disk, when that is what `error` says."""
    # safetensors and tokenizers are written in Rust and put the system's error into the text only.
    if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left on device" in str(error):
        return TrainingFailed(
            ErrorCode.DISK_FULL,
            f"The disk ran full during training: {error}. Free space where the trainer works ($FETTLE_WORK_DIR or the "
            "system's temporary folder) and where adapters are stored, then create the job again.",
        )
    # By name and text: torch's own class on a GPU, a plain RuntimeError of its allocator on the CPU.
    is_torch_error = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    if isinstance(error, MemoryError) or is_torch_error:
        batch_size = spec.method.batch_size
        remedy = (
            f"Set batch_size below {batch_size}, or shorten the longest rows"
            if batch_size > 1
            else "Shorten the longest rows: batch_size is 1 already"
        )
        return TrainingFailed(
            ErrorCode.OUT_OF_MEMORY,
            f"Training ran out of memory with batch_size {batch_size} and rows of up to {spec.method.max_length} "
            f"tokens. {remedy}, or take a smaller base model.",
            "batch_size" if batch_size > 1 else "training_file",
        )
    return None
