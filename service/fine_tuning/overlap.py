"""Validation rows that are trained on too: what is measured on them tells nothing about other rows."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from tuning.data.data_receipt import DataReceipt
from tuning.data.findings import Finding, RowPairs
from tuning.data.row_digests import RowDigests


class Overlap(BaseModel):
    """Rows that become the same tokens count as the same."""

    model_config = ConfigDict(frozen=True)

    is_training_file: bool = Field(description="The validation file is the training file, or has the very same rows.")
    total_rows: int = Field(description="How many validation rows are in the training file.")
    validation_rows: tuple[int, ...] = Field(description="Line numbers, from 1, of the first thousand.")
    training_rows: tuple[int, ...] = Field(description="For each of `validation_rows` the same row there.")

    @classmethod
    def of(cls, pairs: RowPairs, *, is_training_file: bool) -> Self:
        return cls(
            is_training_file=is_training_file,
            total_rows=pairs.total,
            validation_rows=pairs.rows,
            training_rows=pairs.other_rows,
        )


class ValidationReceipt(DataReceipt):
    overlap: Overlap | None = None
    """None: release 0.1 made it."""


def compare_receipts(
    training: DataReceipt, training_rows: RowDigests, validation: DataReceipt, validation_rows: RowDigests
) -> ValidationReceipt:
    """The validation file's receipt with what it has in common with the training file."""
    pairs = validation_rows.shared_with(training_rows)
    is_training_file = validation.sha256 == training.sha256
    overlap = Overlap.of(pairs, is_training_file=is_training_file)
    findings = validation.findings
    if is_training_file:
        findings += (_same_file(validation),)
    elif pairs.total:
        findings += (_overlapping(pairs, validation),)
    return ValidationReceipt(**{**dict(validation), "findings": findings, "overlap": overlap})


def _same_file(validation: DataReceipt) -> Finding:
    return Finding(
        code="validation_is_training",
        level="warning",
        message="Validation file: it has the very rows of the training file, so that every number measured on it is "
        "about rows that are trained on; name a file with other rows.",
        total_rows=validation.trained_rows,
    )


def _overlapping(pairs: RowPairs, validation: DataReceipt) -> Finding:
    return Finding(
        code="overlapping_rows",
        level="warning",
        message=f"Validation file: {pairs.total:,} of {validation.trained_rows:,} rows are in the training file too, "
        f"so that what is measured on them looks better than it is: {pairs.describe('is training')}.",
        rows=pairs.rows,
        total_rows=pairs.total,
        other_rows=pairs.other_rows,
    )
