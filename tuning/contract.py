"""The contract between service and trainer: one spec down; numbered event parts, adapters and one result up.

The trainer's only argument is the URI of its spec. Everything it needs is in there, resolved: no "auto", no default
for the trainer to choose. It answers through object storage alone, so a run that finishes while the service is down
is read afterwards and nothing is lost. Keys under a run's prefix (`jobs/<job id>/attempts/<n>/`):

    spec.json                  written by the service before the start
    events/00000001.jsonl …    event parts without gaps; the reader asks for the next key, never for a listing
    state/step-<n>-<start>/    everything to go on from after step n, saved when a run is stopped; manifest last
    wandb/<run>/               a run of Weights & Biases that was not uploaded there; `wandb sync` reads it
    step_metrics.csv           one row a step, written before the result
    result.json                written last: its presence means that everything else is whole

An attempt may be started more than once, as Kubernetes does after an eviction: a later start goes on in the same run.
The event parts decide who owns it. A part is never written over, so of two starts that live at once the one that finds
its next number taken has lost, and writes nothing more. The result is an event too, before it is an object.

Adapters lie outside the run, under `adapters/<sha256>/` (see `adapter_manifest.py`): immutable, named by content.
"""

from enum import IntEnum, StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

CONTRACT_VERSION: Final = 2
"""Of the spec: a trainer refuses one that it was not built for. 2 brought methods besides supervised."""

SPEC_NAME = "spec.json"
RESULT_NAME = "result.json"
METRICS_CSV_NAME = "step_metrics.csv"

METRICS_CSV_COLUMNS = (
    "step",
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)
"""OpenAI's, of supervised jobs. `metrics_csv_columns` has those of every method."""

MethodName = Literal["supervised", "dpo", "orpo", "kto", "reinforcement"]

_MEASURES: dict[MethodName, tuple[str, ...]] = {
    "supervised": ("loss", "mean_token_accuracy"),
    "dpo": ("loss", "reward_accuracy", "reward_margin"),
    "orpo": ("loss", "mean_token_accuracy", "reward_accuracy", "reward_margin"),
    "kto": ("loss", "reward_accuracy", "reward_margin"),
    "reinforcement": ("loss", "reward_mean", "reward_std"),
}


def metrics_csv_columns(method: MethodName) -> tuple[str, ...]:
    """What is measured of the step, of the sample of the validation rows, and of all of them."""
    return ("step", *(f"{on}_{measure}" for on in ("train", "valid", "full_valid") for measure in _MEASURES[method]))


def event_part_name(number: int) -> str:
    """The key of event part `number` (from 1) relative to the run's prefix."""
    return f"events/{number:08d}.jsonl"


def log_name(attempt: int, container: str) -> str:
    """Of what one container (a local process: `trainer`) printed, under the spec's `logs_uri`."""
    return f"{attempt:04d}-{container}.log"


def state_name(step: int) -> str:
    """How the folder of a training state begins, relative to the run's prefix; each start adds a name of its own."""
    return f"state/step-{step}"


class ExitCode(IntEnum):
    """What the trainer's exit status tells the executor; anything else is a crash and may be tried again."""

    OK = 0
    USER_ERROR = 64  # EX_USAGE: the job cannot succeed as it was asked for; never tried again
    PREEMPTED = 75  # EX_TEMPFAIL: stopped by SIGTERM before its last step; start again, from its state


class ErrorCode(StrEnum):
    """Why a job failed, as clients see it in `job.error.code`."""

    INVALID_TRAINING_FILE = "invalid_training_file"
    INVALID_VALIDATION_FILE = "invalid_validation_file"
    INVALID_N_EXAMPLES = "invalid_n_examples"
    DELETED_TRAINING_FILE = "deleted_training_file"
    DELETED_VALIDATION_FILE = "deleted_validation_file"
    MODEL_UNAVAILABLE = "model_unavailable"
    """The base model cannot be loaded: missing files, another revision, no network."""
    DATA_CHANGED = "data_changed"
    """The trainer rendered other tokens than the service had checked."""
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    """Training took longer than this installation allows."""
    DIVERGED = "training_diverged"
    """The loss became NaN or infinite."""
    GRADER_FAILED = "grader_failed"
    """The grader of a reinforcement job gave no reward for any answer."""
    ADAPTER_NOT_SERVABLE = "adapter_not_servable"
    TRAINER_CRASHED = "trainer_crashed"
    INTERNAL_ERROR = "internal_error"


class _Contract(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# --- down: the spec -----------------------------------------------------------------------------------------------


class BaseModelSpec(_Contract):
    name: str
    """The public name in the catalogue."""
    source: str
    """A local folder, absolute, or a Hugging Face id."""
    revision: str | None
    """A Hugging Face commit; None for a folder."""
    dtype: Literal["float32", "bfloat16"]
    template_path: str | None
    """A chat template file that replaces the model's own; absolute."""
    template_sha256: str
    """Of the template's text: the trainer refuses to render with another one."""
    stop_tokens: tuple[str, ...]


class DataSpec(_Contract):
    uri: str
    """Of the JSONL file."""
    receipt_sha256: str
    """Digest over every token id and mask that the service saw; the trainer refuses to train on anything else."""
    rows: int


class LoraSpec(_Contract):
    r: int
    lora_alpha: int
    lora_dropout: float
    target_modules: str | tuple[str, ...]
    """PEFT's: "all-linear" or module names."""
    use_rslora: bool = False
    """The scale is alpha / sqrt(r) instead of alpha / r."""
    init: Literal["default", "eva"] = "default"
    """`eva` starts from the main directions of the training rows' activations, and is saved as plain LoRA."""
    quantization: Literal["none", "nf4"] = "none"
    """Of the frozen base while it is trained on: QLoRA. What is saved is plain LoRA for the unquantised base."""


LrScheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]


class _MethodSpec(_Contract):
    """What every method has: the optimizer's steps."""

    n_epochs: int
    batch_size: int
    """Examples (rows of the file) per optimizer step, exactly; packing changes how they lie in memory, not how many."""
    learning_rate: float
    """Absolute: the catalogue's rate times OpenAI's `learning_rate_multiplier`, or the rate that was asked for."""
    lr_scheduler_type: LrScheduler
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    neftune_noise_alpha: float | None = None
    max_length: int
    """Tokens; longer rows are cut here, by the same code that made the receipt."""
    packing: bool
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Changes memory and speed, and no result, so that here the trainer may choose: `auto` is off where it fits."""


class SupervisedSpec(_MethodSpec):
    type: Literal["supervised"] = "supervised"


class DpoSpec(_MethodSpec):
    """https://arxiv.org/abs/2305.18290. The reference is the model before the first step: the base, or the adapter
    that training goes on from."""

    type: Literal["dpo"] = "dpo"
    beta: float


class OrpoSpec(_MethodSpec):
    """https://arxiv.org/abs/2403.07691. `beta` weighs the odds ratio (lambda in the paper); there is no reference."""

    type: Literal["orpo"] = "orpo"
    beta: float


class KtoSpec(_MethodSpec):
    """https://arxiv.org/abs/2402.01306, with DPO's reference."""

    type: Literal["kto"] = "kto"
    beta: float
    desirable_weight: float
    undesirable_weight: float


class ReinforcementSpec(_MethodSpec):
    """GRPO, https://arxiv.org/abs/2402.03300, one update for each batch of samples. `batch_size` counts prompts, of
    each of which `samples_per_prompt` answers are drawn."""

    type: Literal["reinforcement"] = "reinforcement"
    grader: dict[str, Any]
    """Of `tuning.graders.schemas`, checked by the service; its reward is what rises."""
    samples_per_prompt: int
    max_completion_tokens: int
    temperature: float
    beta: float
    """Weight of the KL divergence from DPO's reference; 0: none."""
    eval_interval: int
    """Steps between two evaluations on the validation rows."""
    eval_samples: int
    """Answers for each validation row; their mean reward is what `valid_reward_mean` averages."""


MethodSpec = Annotated[SupervisedSpec | DpoSpec | OrpoSpec | KtoSpec | ReinforcementSpec, Field(discriminator="type")]


class SelectionSpec(_Contract):
    """Which of the evaluated steps becomes the result. Without validation rows it is always the last."""

    keep: Literal["best", "last"]
    """`best` by the loss (reinforcement: the mean reward) on all validation rows."""
    eval_steps: int | None
    """All validation rows are measured every so many steps; None: at the end of each epoch."""
    early_stopping_patience: int | None
    """Evaluations in a row without a better one, after which training stops; None: it never does."""


class ProcessesSpec(_Contract):
    """How many trainers work on one run together, each with one GPU or on the CPU. The result does not depend on it,
    but for the order in which floating-point numbers are added and, with dropout, for what is dropped."""

    nodes: int = 1
    per_node: int = 1


class WandbSpec(_Contract):
    """One run in Weights & Biases. Key, server and mode come from the environment (WANDB_*)."""

    run_id: str
    """The same for every attempt, which goes on in the same run."""
    project: str
    name: str
    entity: str | None
    tags: tuple[str, ...]


class JobSpec(_Contract):
    version: Literal[2] = CONTRACT_VERSION
    job_id: str
    attempt: int
    """From 1; part of the run's prefix, so that two attempts never write over each other."""
    base_model: BaseModelSpec
    parent_adapter_sha256: str | None
    """The adapter that training goes on from; `lora` then has its rank and modules. None: a new one."""
    training_data: DataSpec
    validation_data: DataSpec | None
    method: MethodSpec
    lora: LoraSpec
    selection: SelectionSpec
    seed: int
    output_uri: str
    """The run's prefix, without a trailing slash."""
    adapters_uri: str
    """Where adapters lie, each under its own hash; without a trailing slash."""
    resume_from: str | None
    """The URI of a state that an earlier attempt saved; None: from the first step."""
    logs_uri: str
    """Where the run keeps what it prints, under `log_name`; without a trailing slash."""
    processes: ProcessesSpec
    wandb: tuple[WandbSpec, ...]


# --- up: events ---------------------------------------------------------------------------------------------------


class StepMetrics(_Contract):
    """OpenAI's metric names; a key is None when it was not measured at this step."""

    step: int
    total_steps: int
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_loss: float | None = None
    """On a small fixed sample of the validation rows, weighted by token; `full_valid_*` on all of them."""
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None

    train_reward_accuracy: float | None = None
    """Of preferences: how often the answer that is wanted is favoured over the other, and by how much on average."""
    train_reward_margin: float | None = None
    valid_reward_accuracy: float | None = None
    valid_reward_margin: float | None = None
    full_valid_reward_accuracy: float | None = None
    full_valid_reward_margin: float | None = None

    train_reward_mean: float | None = None
    """Of reinforcement: what the grader gave, and how far the answers to one prompt lie apart."""
    train_reward_std: float | None = None
    valid_reward_mean: float | None = None
    valid_reward_std: float | None = None
    full_valid_reward_mean: float | None = None
    full_valid_reward_std: float | None = None


class _Event(_Contract):
    created_at: float
    """Unix seconds."""


class StartedEvent(_Event):
    """The model is loaded and the data checked: training begins."""

    type: Literal["started"] = "started"
    total_steps: int
    resumed_step: int
    """The last step of the state that it goes on from; 0: it starts with the first."""
    trainable_parameters: int


class MetricsEvent(_Event):
    type: Literal["metrics"] = "metrics"
    metrics: StepMetrics
    seconds_left: float | None = None


class CheckpointEvent(_Event):
    """An adapter that can be served: of the end of an epoch, of a step that was the best so far, or of the one at which
    the run was stopped."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int
    adapter_sha256: str
    metrics: StepMetrics
    is_result: bool | None = None
    """The job's result; it comes last, and its step may have been told before. None, as the trainers of release 0.1
    write it: the result is the checkpoint of the last step."""


class StateSavedEvent(_Event):
    """A state lies whole in storage: the next start or attempt goes on after this step."""

    type: Literal["state_saved"] = "state_saved"
    step: int
    folder: str | None = None
    """Relative to the run's prefix. None: `state_name(step)`, as the trainers of release 0.1 call it."""


class MessageEvent(_Event):
    type: Literal["message"] = "message"
    key: str | None = None
    """What it is about, when one such message is enough for all attempts of the job."""
    level: Literal["info", "warn", "error"]
    message: str


# --- up: the result -----------------------------------------------------------------------------------------------


class JobError(_Contract):
    code: ErrorCode
    message: str
    param: str | None = None


class JobResult(_Contract):
    version: Literal[1] = 1
    job_id: str
    attempt: int
    error: JobError | None
    """None when the run succeeded; then the fields below are set."""
    adapter_sha256: str | None = None
    trained_tokens: int | None = None
    """Tokens seen in all epochs, prompt and padding-free, as OpenAI bills them."""
    steps: int | None = None
    """That were taken; with early stopping fewer than were planned."""
    seconds: dict[str, float] = {}
    """Seconds by stage: load, train, evaluate, save."""


class FinishedEvent(_Event):
    """The last of a run. Only the owner of the run can write it; `result.json`, a copy of its result, comes next."""

    type: Literal["finished"] = "finished"
    result: JobResult


TrainingEvent = Annotated[
    StartedEvent | MetricsEvent | CheckpointEvent | StateSavedEvent | MessageEvent | FinishedEvent,
    Field(discriminator="type"),
]
