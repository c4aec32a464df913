"""Learning from pairs of answers, of which one is preferred: DPO against a reference, ORPO without one."""

import torch
import torch.nn.functional as F
from datasets import Dataset

from trainer_image.collation import MicroBatch
from trainer_image.methods.sequence_trainer import SequenceTrainer
from trainer_image.methods.step_trainer import Sums
from tuning.contract import DpoSpec, OrpoSpec

CERTAIN = -1e-7
"""The odds of a probability of 1 are infinite; no closer than this to a log-probability of 0."""


class DpoTrainer(SequenceTrainer):
    """The loss of a pair is -log sigmoid(reward of the chosen answer - reward of the rejected one), where the reward is
    beta * log(probability / probability by the reference)."""

    SUMS = ("pairs", "loss", "right", "margin")
    PREFIXES = ("chosen_", "rejected_")
    VALUES = ("reference_log_ratio",)

    def complete(self, rows: Dataset) -> Dataset:
        log_probs = self.reference_log_probs(rows.__getitem__, len(rows), self.PREFIXES)
        return rows.add_column("reference_log_ratio", log_probs[:, 0] - log_probs[:, 1])

    def score(self, model: torch.nn.Module, batch: MicroBatch) -> tuple[torch.Tensor, Sums]:
        assert isinstance(self.spec.method, DpoSpec)
        chosen, rejected = self.score_answers(model, batch).log_probs.view(-1, 2).unbind(1)
        margins = self.spec.method.beta * (chosen - rejected - batch["reference_log_ratio"])
        loss = -F.logsigmoid(margins).sum()
        return loss, _sums_of_pairs(loss, margins)

    def metrics(self, sums: Sums) -> dict[str, float]:
        return _means_of_pairs(sums)


class OrpoTrainer(SequenceTrainer):
    """The loss of a pair is -log(probability of the chosen answer) - beta * log sigmoid(log of the odds ratio), where
    the probability of an answer is the geometric mean over its tokens. The paper has no token of the prompt in it."""

    SUMS = ("pairs", "loss", "right", "margin", "tokens", "correct")
    PREFIXES = ("chosen_", "rejected_")

    def complete(self, rows: Dataset) -> Dataset:
        return rows

    def score(self, model: torch.nn.Module, batch: MicroBatch) -> tuple[torch.Tensor, Sums]:
        assert isinstance(self.spec.method, OrpoSpec)
        scores = self.score_answers(model, batch)
        chosen, rejected = (scores.log_probs / scores.tokens.clamp(min=1)).view(-1, 2).unbind(1)
        margins = _log_odds(chosen) - _log_odds(rejected)
        loss = (-chosen - self.spec.method.beta * F.logsigmoid(margins)).sum()
        return loss, {
            **_sums_of_pairs(loss, margins),
            "tokens": int(scores.tokens[::2].sum()),
            "correct": int(scores.correct[::2].sum()),
        }

    def metrics(self, sums: Sums) -> dict[str, float]:
        """How well the tokens of the chosen answers are predicted, besides."""
        return {**_means_of_pairs(sums), "mean_token_accuracy": sums["correct"] / max(1.0, sums["tokens"])}


def _log_odds(log_probs: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)), exact for small and large p."""
    log_probs = log_probs.clamp(max=CERTAIN)
    return log_probs - torch.log(-torch.expm1(log_probs))


def _sums_of_pairs(loss: torch.Tensor, margins: torch.Tensor) -> Sums:
    return {
        "pairs": len(margins),
        "loss": float(loss.detach()),
        "right": int((margins > 0).sum()),
        "margin": float(margins.detach().sum()),
    }


def _means_of_pairs(sums: Sums) -> dict[str, float]:
    pairs = max(1.0, sums["pairs"])
    return {
        "loss": sums["loss"] / pairs,
        "reward_accuracy": sums["right"] / pairs,
        "reward_margin": sums["margin"] / pairs,
    }
