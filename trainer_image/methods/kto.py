"""KTO: learning from single answers that are each good or bad.

The reward of an answer is log(probability / probability by the reference). It counts from a reference point, which is
how far the model has drifted from the reference at all: the mean of the same ratio over prompts with an answer to
another prompt (a Kullback-Leibler divergence, if such answers were drawn from the model). Every row has one such pair,
drawn once for the whole run, so that the estimate of a step is that of its rows, and depends on nothing else: it is
made before the step's first micro-batch, over all trainers, and no gradient flows through it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from trainer_image.collation import IGNORED_LABEL, MicroBatch
from trainer_image.methods.sequence_trainer import ExampleAt, SequenceTrainer
from trainer_image.methods.step_trainer import Sums
from tuning.contract import KtoSpec

Row = Mapping[str, Any]


class KtoTrainer(SequenceTrainer):
    """The loss of a row is its weight * sigmoid(beta * (reference point - reward)) for a desirable answer, and
    weight * sigmoid(beta * (reward - reference point)) for another one."""

    SUMS = ("rows", "loss", "right", "desirable", "desirable_reward", "undesirable_reward")
    PREFIXES = ("",)
    VALUES = ("is_desirable", "reference")

    def complete(self, rows: Dataset) -> Dataset:
        partners = draw_partners(len(rows), self.spec.seed)
        for name, column in (("index", np.arange(len(rows))), ("partner", partners)):
            rows = rows.add_column(name, column)
        own = self.reference_log_probs(rows.__getitem__, len(rows), self.PREFIXES)
        mismatched = self.reference_log_probs(self._mismatched_in(rows), len(rows), self.PREFIXES)
        for name, log_probs in (("reference", own), ("mismatched_reference", mismatched)):
            rows = rows.add_column(name, log_probs[:, 0])
        return rows

    def training_step(
        self, model: torch.nn.Module, inputs: list[Row], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        own = [int(row["index"]) for row in inputs[self.group.rank :: self.group.size]]
        self._reference_point = self._estimate_drift(self.train_dataset, own)
        return super().training_step(model, inputs, num_items_in_batch)

    def evaluate_rows(self, rows: Dataset) -> dict[str, float]:
        own = range(self.group.rank, len(rows), self.group.size)
        self._reference_point = self._estimate_drift(self.completed(rows), own)
        return super().evaluate_rows(rows)

    def score(self, model: torch.nn.Module, batch: MicroBatch) -> tuple[torch.Tensor, Sums]:
        method = self.spec.method
        assert isinstance(method, KtoSpec)
        rewards = self.score_answers(model, batch).log_probs - batch["reference"]
        is_desirable = batch["is_desirable"]
        gains = method.beta * torch.where(is_desirable, 1, -1) * (rewards - self._reference_point)
        weights = torch.where(is_desirable, method.desirable_weight, method.undesirable_weight)
        loss = (weights * torch.sigmoid(-gains)).sum()
        scaled = method.beta * rewards.detach()
        return loss, {
            "rows": len(scaled),
            "loss": float(loss.detach()),
            "right": int((gains > 0).sum()),
            "desirable": int(is_desirable.sum()),
            "desirable_reward": float(scaled[is_desirable].sum()),
            "undesirable_reward": float(scaled[~is_desirable].sum()),
        }

    def metrics(self, sums: Sums) -> dict[str, float]:
        """The accuracy says how many rewards lie on the side of the reference point where they belong; a margin there
        is only between answers of both kinds."""
        rows, desirable = max(1.0, sums["rows"]), sums["desirable"]
        values = {"loss": sums["loss"] / rows, "reward_accuracy": sums["right"] / rows}
        if 0 < desirable < rows:
            undesirable_mean = sums["undesirable_reward"] / (rows - desirable)
            values["reward_margin"] = sums["desirable_reward"] / desirable - undesirable_mean
        return values

    # --- the reference point --------------------------------------------------------------------------------------

    def _estimate_drift(self, rows: Dataset, own: Sequence[int]) -> float:
        """`own`: the indices that this trainer is to look at."""
        log_probs = self.log_probs_of(self._mismatched_in(rows), own, self.PREFIXES)[:, 0]
        references = [rows[index]["mismatched_reference"] for index in own]
        total, count = self.group.sum(float(np.subtract(log_probs, references, dtype=np.float64).sum()), len(own))
        drift = total / max(1.0, count)
        return 0.0 if drift < 0 else drift  # what is not a number stays so, and ends the run

    def _mismatched_in(self, rows: Dataset) -> ExampleAt:
        def example_at(index: int) -> Row:
            row = rows[index]
            return mismatch(row, rows[int(row["partner"])], self.spec.method.max_length)

        return example_at


def draw_partners(count: int, seed: int) -> np.ndarray:
    """Another row for each, and each one once. (Neighbours in the file may well be answers to the same prompt.)"""
    order = np.random.default_rng(seed).permutation(count)
    partners = np.empty_like(order)
    partners[order] = np.roll(order, 1)
    return partners


def mismatch(prompt_of: Row, answer_of: Row, max_length: int) -> Row:
    """The prompt of one row with the answer of another, from its first token that is trained on."""
    prompt, answer = _answer_start(prompt_of), _answer_start(answer_of)
    room = max_length - prompt
    prompt_labels = np.full(prompt, IGNORED_LABEL)
    return {
        "input_ids": np.concatenate([prompt_of["input_ids"][:prompt], answer_of["input_ids"][answer:][:room]]),
        "labels": np.concatenate([prompt_labels, answer_of["labels"][answer:][:room]]),
    }


def _answer_start(row: Row) -> int:
    return int(np.argmax(row["labels"] != IGNORED_LABEL))
