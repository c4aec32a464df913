"""The receipt of a job's files, as `GET …/receipt` answers it. An extension of OpenAI's API."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from service.fine_tuning.overlap import Overlap, ValidationReceipt
from tuning.data.receipt import DataReceipt

_TRAINING_EXAMPLE: dict[str, JsonValue] = {
    "version": 2,
    "method": "supervised",
    "rows": 1200,
    "trained_rows": 1199,
    "tokens": 281734,
    "supervised_tokens": 96120,
    "longest_row_tokens": 1024,
    "cut_rows": [77],
    "total_cut_rows": 1,
    "dropped_rows": [78],
    "total_dropped_rows": 1,
    "template_sha256": "3f1c6f2a9f0c7f5b8a4de2a8f0b1d7b9c1f2e3d4a5b6c7d8e9f00112233445566",
    "max_length": 1024,
    "sha256": "9d2b1a0f8e7c6d5b4a39281706f5e4d3c2b1a0f9e8d7c6b5a49382716f5e4d3c",
    "row_tokens": {"min": 41, "p50": 213, "p90": 402, "p99": 871, "max": 1024},
    "row_supervised_tokens": {"min": 6, "p50": 71, "p90": 160, "p99": 390, "max": 612},
    "total_duplicate_rows": 1,
    "supervised_turns": 1630,
    "stopped_turns": 1629,
    "roles": {"system": 1199, "user": 1630, "assistant": 2010, "tool": 380},
    "tools": [{"name": "set_lamp", "rows": 400, "calls": 310}],
    "unlisted_tools": 0,
    "preferences": None,
    "labels": None,
    "item_keys": None,
    "samples": [
        {
            "which": "shortest",
            "row": 12,
            "tokens": 41,
            "supervised_tokens": 6,
            "sequences": [
                {
                    "answer": None,
                    "pieces": [
                        {
                            "text": "<|im_start|>user\nTell me whether it is on.<|im_end|>\n<|im_start|>assistant\n",
                            "is_supervised": False,
                            "tokens": 35,
                            "is_shortened": False,
                        },
                        {"text": "It is.<|im_end|>", "is_supervised": True, "tokens": 6, "is_shortened": False},
                    ],
                    "left_out_pieces": 0,
                }
            ],
        }
    ],
    "findings": [
        {
            "code": "duplicate_rows",
            "level": "warning",
            "message": "Training file has rows more than once: row 90 repeats row 14.",
            "rows": [90],
            "total_rows": 1,
            "other_rows": [14],
            "reason": None,
        }
    ],
}


class JobReceipt(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "fine_tuning.job.receipt",
                    "fine_tuning_job_id": "ftjob-aQ3kV9mT2pLxW7cYzX81QlWe",
                    "training": _TRAINING_EXAMPLE,
                    "validation": None,
                    "overlap": None,
                }
            ]
        }
    )

    object: Literal["fine_tuning.job.receipt"] = "fine_tuning.job.receipt"
    fine_tuning_job_id: str
    training: DataReceipt
    validation: DataReceipt | None = Field(description="Null: the job has no validation file.")
    overlap: Overlap | None = Field(description="What both files have in common; null where there is only one.")

    @classmethod
    def from_columns(cls, job_id: str, training: dict[str, Any], validation: dict[str, Any] | None) -> Self:
        measured = ValidationReceipt.model_validate(validation) if validation is not None else None
        return cls(
            fine_tuning_job_id=job_id,
            training=DataReceipt.model_validate(training),
            validation=DataReceipt.model_validate(validation) if validation is not None else None,
            overlap=measured.overlap if measured is not None else None,
        )
