"""Estimates of jobs as clients read them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.fine_tuning.overlap import ValidationReceipt
from service.fine_tuning.resolution import ResolvedValue
from tuning.data.receipt import DataReceipt


class MemoryPartsBody(BaseModel):
    """Bytes."""

    weights: int = Field(description="The base model's, frozen.")
    adapter: int
    gradients: int
    optimizer: int
    activations: int = Field(description="What a forward pass keeps for the backward pass.")
    head: int = Field(description="Of the output layer, while tokens are scored against the vocabulary.")
    process: int = Field(description="Python and its libraries; on a GPU, CUDA's own.")


class MemoryEstimate(BaseModel):
    """Of each training process at its peak."""

    bytes: int | None = Field(description="Null: it cannot be told; `because` says why.")
    parts: MemoryPartsBody | None
    device: Literal["cpu", "cuda"]
    gradient_checkpointing: bool = Field(description="Whether `bytes` are those with it.")
    bytes_with_gradient_checkpointing: int | None
    bytes_without_gradient_checkpointing: int | None
    error_percent: float | None = Field(
        description="How far the worst of the measured runs was from its prediction; null: not measured for such jobs."
    )
    available_bytes: int | None = Field(description="What there is for it; null: unknown.")
    because: str


class TimeEstimate(BaseModel):
    value: float | None = Field(description="Seconds of the training run, without waiting; null: unknown.")
    because: str


class PriceEstimate(BaseModel):
    amount: float
    currency: str
    per_million_tokens: float


class Reason(BaseModel):
    message: str
    param: str | None
    code: str | None


class Admission(BaseModel):
    would_be_admitted: bool
    reasons: list[Reason] = Field(description="Why not: what `POST /v1/fine_tuning/jobs` or the job's error would say.")
    warnings: list[Reason] = Field(description="It would be admitted all the same.")
    jobs_ahead: int | None = Field(description="Queued jobs that start before it would; null: unknown.")


_EXAMPLE: dict[str, Any] = {
    "object": "fine_tuning.job.estimate",
    "model": "fettle-tiny",
    "method": "supervised",
    "rows": 2500,
    "trained_rows": 2500,
    "tokens": 602156,
    "supervised_tokens": 141203,
    "trained_tokens": 1204312,
    "steps": 314,
    "hyperparameters": {"n_epochs": 2, "batch_size": 16, "learning_rate_multiplier": 1.0},
    "x_resolved": {
        "learning_rate": {"value": 2.0e-3, "source": "auto", "because": "the catalogue's rate"},
    },
    "memory": {
        "bytes": 985000000,
        "parts": {
            "weights": 7084800,
            "adapter": 868352,
            "gradients": 868352,
            "optimizer": 1736704,
            "activations": 117440512,
            "head": 77594624,
            "process": 779406656,
        },
        "device": "cpu",
        "gradient_checkpointing": False,
        "bytes_with_gradient_checkpointing": 903000000,
        "bytes_without_gradient_checkpointing": 985000000,
        "error_percent": 10.0,
        "available_bytes": 16106127360,
        "because": "predicted from the shape of fettle-tiny and micro-batches of 2,048 tokens",
    },
    "seconds": {"value": 61.4, "because": "measured on 3 finished jobs of this base (23,100 tokens/s median)"},
    "price": {"amount": 0.361294, "currency": "USD", "per_million_tokens": 0.3},
    "admission": {"would_be_admitted": True, "reasons": [], "warnings": [], "jobs_ahead": 0},
    "training_receipt": None,
    "validation_receipt": None,
}


class JobEstimate(BaseModel):
    """What a job would be, if this request were sent to `POST /v1/fine_tuning/jobs`. Numbers are null where the files
    are refused: `admission` says why."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    object: Literal["fine_tuning.job.estimate"] = "fine_tuning.job.estimate"
    model: str
    method: str
    rows: int | None = Field(description="In the training file.")
    trained_rows: int | None
    tokens: int | None = Field(description="Of the rows that are trained on, once.")
    supervised_tokens: int | None = Field(description="Those of them that the model learns to say.")
    trained_tokens: int | None = Field(
        description="In all epochs: what the finished job will tell, unless it stops early, and what the price is for. "
        "Of reinforcement the most there may be: every answer as long as it may get."
    )
    steps: int | None = Field(description="Unless it stops early.")
    hyperparameters: dict[str, Any] | None = Field(description="As the job would have them, without `auto`.")
    x_resolved: dict[str, ResolvedValue] | None = Field(description="All that decides about the training.")
    memory: MemoryEstimate
    seconds: TimeEstimate
    price: PriceEstimate | None = Field(description="Null: the catalogue has no rate for this base model.")
    admission: Admission
    training_receipt: DataReceipt | None = Field(description="What would be trained on, with all findings.")
    validation_receipt: ValidationReceipt | None
