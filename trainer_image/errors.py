"""How a run fails for a reason that the user can act on; anything else that is raised is a crash and tried again."""

import errno

from tuning.contract import ErrorCode, JobError, JobSpec, ReinforcementSpec

_NO_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "std::bad_alloc")
"""In the text of a plain RuntimeError: of torch's allocator on the CPU, of cuBLAS, of oneDNN."""


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
    return out_of_memory(spec) if is_out_of_memory(error) else None


def is_out_of_memory(error: Exception) -> bool:
    # By name and text, because torch is not imported everywhere that this is.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(text in str(error) for text in _NO_MEMORY)
    )


def out_of_memory(spec: JobSpec, longest: int | None = None) -> TrainingFailed:
    """`longest`: tokens of the longest row of the step, which was tried in smaller pieces as well."""
    if longest is None:
        what = f"Training ran out of memory. Rows have up to {spec.method.max_length} tokens."
    else:
        what = (
            "Training ran out of memory, also with half as many tokens in a forward pass and with gradient "
            f"checkpointing. The longest row of the step has {longest} tokens, and a row is never cut in pieces."
        )
    return TrainingFailed(
        ErrorCode.OUT_OF_MEMORY,
        f"{what} batch_size does not matter: a batch is worked off in parts. {_remedies(spec, longest)}",
        "x_training.max_length",
    )


def _remedies(spec: JobSpec, longest: int | None) -> str:
    """What is not set yet, and what helps most comes first."""
    remedies = []
    if spec.lora.quantization == "none":
        remedies.append("x_training.adaptation to qlora")
    if spec.base_model.dtype == "float32":
        remedies.append("x_training.precision to bfloat16")
    if spec.method.gradient_checkpointing == "off" and longest is None:
        remedies.append("x_training.gradient_checkpointing to true")
    if isinstance(spec.method, ReinforcementSpec):
        remedies.append(f"x_training.max_completion_tokens below {spec.method.max_completion_tokens}")
    remedies.append(f"x_training.max_length to {max(1, (longest or spec.method.max_length) // 2)}")
    if spec.lora.r > 8:
        remedies.append(f"x_training.r below {spec.lora.r}")
    return f"Set {', or '.join(remedies)}; or take a smaller base model or a machine with more memory."
