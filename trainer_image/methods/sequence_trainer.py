"""What the methods have in common that compare the log-probabilities of whole answers.

An answer's log-probability is the sum over its tokens that are trained on. Where a method needs that of the reference
too, it is computed once for every row: before the first step of those that are trained on, and of those that are only
validated on, before they are used first.
"""

import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from trl.trainer.utils import FusedCausalLMOutput

from trainer_image.collation import MicroBatch
from trainer_image.methods.reference import Reference
from trainer_image.methods.step_trainer import ROWS_PER_EVALUATION_BATCH, StepTrainer
from trainer_image.sequence_collation import SequenceCollator

log = logging.getLogger("trainer")

ExampleAt = Callable[[int], Mapping[str, Any]]


@dataclass(frozen=True)
class AnswerScores:
    """Each [sequences], over the tokens that are trained on."""

    log_probs: torch.Tensor
    tokens: torch.Tensor
    correct: torch.Tensor


class SequenceTrainer(StepTrainer):
    """The loss of a step is the mean over its rows."""

    PREFIXES: ClassVar[tuple[str, ...]]
    """Of the columns with a row's sequences, see SequenceCollator."""
    VALUES: ClassVar[tuple[str, ...]] = ()
    """Columns with one number a row that the loss needs."""

    reference: Reference
    train_dataset: Dataset
    data_collator: Any
    """A SequenceCollator, once the rows are loaded."""

    @abstractmethod
    def complete(self, rows: Dataset) -> Dataset:
        """With all VALUES. `reference` is there already."""

    def on_rows_loaded(self) -> None:
        self._validated: dict[str, Dataset] = {}
        self.reference = Reference(self.model, is_new_adapter=self.spec.parent_adapter_sha256 is None)
        self.data_collator = self._collator(
            self.PREFIXES, self.VALUES, trainer=self.group.rank, trainers=self.group.size
        )
        self.train_dataset = self.complete(self.train_dataset)

    def count_units(self, batch: MicroBatch) -> int:
        return (int(batch["sequence"].max()) + 1) // len(self.PREFIXES)

    def evaluate_rows(self, rows: Dataset) -> dict[str, float]:
        return super().evaluate_rows(self.completed(rows))

    def completed(self, rows: Dataset) -> Dataset:
        key = rows._fingerprint
        if key not in self._validated:
            self._validated[key] = self.complete(rows)
        return self._validated[key]

    # --- log-probabilities ----------------------------------------------------------------------------------------

    def score_answers(self, model: torch.nn.Module, batch: MicroBatch) -> AnswerScores:
        inputs = {name: batch[name] for name in ("input_ids", "labels", "position_ids")}
        outputs: FusedCausalLMOutput = model(**inputs, use_cache=False, fused_lm_head=True)
        sequence = batch["sequence"][:, 1:]  # of the token that is predicted
        numbers = torch.arange(int(batch["sequence"].max()) + 1, device=sequence.device)
        is_of = sequence == numbers[:, None, None]

        def sums(values: torch.Tensor) -> torch.Tensor:
            # Not by index_add, which adds in another order each time on a GPU.
            return torch.where(is_of, values, 0).sum((1, 2))

        return AnswerScores(sums(outputs.log_probs), sums(outputs.label_mask), sums(outputs.is_top1))

    def reference_log_probs(self, example_at: ExampleAt, count: int, prefixes: Sequence[str]) -> np.ndarray:
        """[count, prefixes], of the examples 0 to count - 1. Each trainer scores its part of them."""
        started = time.monotonic()
        own = range(self.group.rank, count, self.group.size)
        found = np.zeros((count, len(prefixes)))
        with self.reference.in_place():
            found[own] = self.log_probs_of(example_at, own, prefixes)
        log.info("reference: %d rows in %.1f s", count, time.monotonic() - started)
        return np.array(self.group.sum(*found.ravel()), dtype=np.float32).reshape(found.shape)

    def log_probs_of(self, example_at: ExampleAt, indices: Sequence[int], prefixes: Sequence[str]) -> np.ndarray:
        """[indices, prefixes], without dropout and without gradients."""
        found = np.zeros((len(indices), len(prefixes)), dtype=np.float32)
        collate = self._collator(prefixes, ("position",))
        self.model.eval()
        with self.group.together(self.spec), torch.no_grad(), self.compute_loss_context_manager():
            for start in range(0, len(indices), ROWS_PER_EVALUATION_BATCH):
                part = enumerate(indices[start : start + ROWS_PER_EVALUATION_BATCH], start)
                for batch in collate([{**example_at(index), "position": position} for position, index in part]):
                    scores = self.score_answers(self.model, self._prepare_inputs(batch))
                    found[batch["position"].numpy()] = scores.log_probs.view(-1, len(prefixes)).float().cpu()
        self.model.train()
        return found

    def _collator(self, prefixes: Sequence[str], values: Sequence[str], **part: int) -> SequenceCollator:
        tokens = self.data_collator.tokens_per_micro_batch
        return SequenceCollator(prefixes, values, self.spec.method.packing, tokens, **part)
