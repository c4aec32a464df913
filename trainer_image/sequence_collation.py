"""From the examples of one optimizer step to micro-batches, for methods that score whole sequences.

An example has one sequence or several: an answer, and another one that it is compared with. Those of one example lie in
one micro-batch, because its loss needs them all. Packing is that of `collation`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trainer_image.collation import Example, MicroBatch, pad_rows

Place = tuple[int, int]
"""Which example, and which of its sequences."""


class SequenceCollator:
    """Called with the examples of one optimizer step. Of several trainers each takes its part of them.

    Besides what `pad_rows` makes, a micro-batch says in `sequence` [rows, longest row] to which one a token belongs
    (-1: to none), and has one entry an example in each of `values`. With K sequences each, those of example i in that
    order are the sequences i * K, …, i * K + K - 1.
    """

    def __init__(
        self,
        prefixes: Sequence[str],
        values: Sequence[str],
        packing: bool,
        tokens_per_micro_batch: int,
        *,
        trainer: int = 0,
        trainers: int = 1,
    ) -> None:
        """`prefixes` of the columns `…input_ids` and `…labels`, one for each sequence; `values`: columns of numbers."""
        self._prefixes = prefixes
        self._values = values
        self._packing = packing
        self.tokens_per_micro_batch = tokens_per_micro_batch
        """May change between two calls."""
        self._trainer = trainer
        self._trainers = trainers

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> list[MicroBatch]:
        by_length = sorted(examples, key=lambda example: -max(self._lengths(example)))
        examples = by_length[self._trainer :: self._trainers]
        lengths = [self._lengths(example) for example in examples]
        cut = cut_and_pack(lengths, self.tokens_per_micro_batch, self._packing)
        return [self._lay_out(examples, rows) for rows in cut]

    def _lengths(self, example: Mapping[str, Any]) -> list[int]:
        return [len(example[f"{prefix}input_ids"]) for prefix in self._prefixes]

    def _lay_out(self, examples: Sequence[Mapping[str, Any]], rows: Sequence[Sequence[Place]]) -> MicroBatch:
        numbers = [number for row in rows for number, _ in row]
        first, last = min(numbers), max(numbers)
        sequences = [[self._sequence(examples[number], which) for number, which in row] for row in rows]
        width = max(sum(len(sequence["input_ids"]) for sequence in row) for row in sequences)
        batch = pad_rows(sequences, width)
        batch["sequence"] = torch.full((len(rows), width), -1)
        for row, places in enumerate(rows):
            start = 0
            for (number, which), sequence in zip(places, sequences[row], strict=True):
                stop = start + len(sequence["input_ids"])
                batch["sequence"][row, start:stop] = (number - first) * len(self._prefixes) + which
                start = stop
        for name in self._values:
            batch[name] = torch.as_tensor(np.array([example[name] for example in examples[first : last + 1]]))
        return batch

    def _sequence(self, example: Mapping[str, Any], which: int) -> Example:
        prefix = self._prefixes[which]
        return {"input_ids": example[f"{prefix}input_ids"], "labels": example[f"{prefix}labels"]}


def cut_and_pack(lengths: Sequence[Sequence[int]], tokens: int, packing: bool) -> list[list[list[Place]]]:
    """`lengths` of each example's sequences, the example with the longest one first. Answers the rows of each
    micro-batch: of `tokens` at most, padding included, unless one example alone has more. A row is no longer than the
    longest sequence beside it."""
    micro_batches: list[list[list[Place]]] = []
    used: list[int] = []
    width = 0
    for number, own in enumerate(lengths):
        rows = _first_fit(own, used, width if packing else 0)
        if not used or max(len(used), max(rows) + 1) * width > tokens:
            micro_batches.append([])
            used, width = [], max(own)
            rows = _first_fit(own, used, width if packing else 0)
        for which, row in enumerate(rows):
            if row == len(used):
                used.append(0)
                micro_batches[-1].append([])
            used[row] += own[which]
            micro_batches[-1][row].append((number, which))
    return micro_batches


def _first_fit(lengths: Sequence[int], used: Sequence[int], row_length: int) -> list[int]:
    """The row of each, the first that has room for it or a new one."""
    used, rows = list(used), []
    for length in lengths:
        row = next((row for row, tokens in enumerate(used) if tokens + length <= row_length), len(used))
        if row == len(used):
            used.append(0)
        used[row] += length
        rows.append(row)
    return rows
