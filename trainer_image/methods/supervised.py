"""Supervised fine-tuning on TRL's SFTTrainer, with our token ids and labels and with every number weighted by token."""

import torch
from trl.trainer.utils import FusedCausalLMOutput

from trainer_image.collation import IGNORED_LABEL, MicroBatch
from trainer_image.methods.step_trainer import StepTrainer, Sums


class SupervisedTrainer(StepTrainer):
    SUMS = ("tokens", "loss", "correct")

    def count_units(self, batch: MicroBatch) -> int:
        return int((batch["labels"] != IGNORED_LABEL).sum())

    def score(self, model: torch.nn.Module, batch: MicroBatch) -> tuple[torch.Tensor, Sums]:
        # TRL's head scores tokens in tiles: the logits [tokens, vocabulary] never lie in memory whole on a GPU.
        outputs: FusedCausalLMOutput = model(**batch, use_cache=False, fused_lm_head=True)
        loss = -outputs.log_probs.sum()
        return loss, {
            "tokens": int(outputs.label_mask.sum()),
            "loss": float(loss.detach()),
            "correct": int(outputs.is_top1.sum()),
        }

    def metrics(self, sums: Sums) -> dict[str, float]:
        tokens = max(1.0, sums["tokens"])
        return {"loss": sums["loss"] / tokens, "mean_token_accuracy": sums["correct"] / tokens}
