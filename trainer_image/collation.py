"""From the examples of one optimizer step to padded micro-batches, packed without letting examples see each other.

Packing lays several examples into one row and starts `position_ids` again at 0 for each. Without an attention mask,
transformers reads those restarts and builds a block-diagonal causal mask, so that a packed example has the
log-probabilities it would have alone (a test compares them).
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch

IGNORED_LABEL = -100
"""What torch, transformers and TRL leave out of the loss."""


class Example(TypedDict):
    input_ids: np.ndarray
    labels: np.ndarray


MicroBatch = dict[str, torch.Tensor]
"""`input_ids`, `labels` and `position_ids`, each [rows, longest row]."""


class StepCollator:
    """Called with the examples of one optimizer step; answers its micro-batches, each of a bounded number of tokens.
    Of several trainers each takes its part of the examples, with as many long ones as the others; it may be empty.

    A packed row is as long as the step's longest example. Longer ones would only cost attention between tokens that
    do not see each other: on the CPU, rows of 1024 took half as long again for examples of 250 tokens.
    """

    def __init__(self, packing: bool, tokens_per_micro_batch: int, *, trainer: int = 0, trainers: int = 1) -> None:
        self._packing = packing
        self.tokens_per_micro_batch = tokens_per_micro_batch
        """May change between two calls."""
        self._trainer = trainer
        self._trainers = trainers

    def __call__(self, examples: Sequence[Example]) -> list[MicroBatch]:
        by_length = sorted(examples, key=lambda example: -len(example["input_ids"]))
        examples = by_length[self._trainer :: self._trainers]
        lengths = [len(example["input_ids"]) for example in examples]
        rows = pack(lengths, max(lengths, default=0) if self._packing else 0)
        micro_batches, start = [], 0
        while start < len(rows):
            # Rows come longest first, so the first one sets the width.
            width = sum(lengths[index] for index in rows[start])
            stop = start + max(1, self.tokens_per_micro_batch // width)
            micro_batches.append(pad_rows([[examples[index] for index in row] for row in rows[start:stop]], width))
            start = stop
        return micro_batches


def pack(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """First-fit decreasing: indices of `lengths` by row, the fullest row first. One over `row_length` lies alone."""
    rows: list[list[int]] = []
    used: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        fitting = (row for row, tokens in enumerate(used) if tokens + lengths[index] <= row_length)
        row = next(fitting, len(rows))
        if row == len(rows):
            rows.append([])
            used.append(0)
        rows[row].append(index)
        used[row] += lengths[index]
    return [rows[row] for row in sorted(range(len(rows)), key=lambda row: (-used[row], row))]


def pad_rows(rows: Sequence[Sequence[Example]], width: int) -> MicroBatch:
    input_ids = torch.zeros(len(rows), width, dtype=torch.int64)
    labels = torch.full((len(rows), width), IGNORED_LABEL, dtype=torch.int64)
    # Padding counts on from the row's last example: no label and no real token attends to it, and a micro-batch
    # where every row holds one example keeps plain causal attention, which needs no mask.
    position_ids = torch.arange(width).repeat(len(rows), 1)
    for row, examples in enumerate(rows):
        start = 0
        for example in examples:
            length = len(example["input_ids"])
            input_ids[row, start : start + length] = torch.as_tensor(example["input_ids"])
            # The first token of an example has no context: it must not be predicted from the example before it.
            labels[row, start + 1 : start + length] = torch.as_tensor(example["labels"][1:])
            position_ids[row, start:] = torch.arange(width - start)
            start += length
    return {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
