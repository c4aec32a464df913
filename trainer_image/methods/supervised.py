"""Supervised fine-tuning on TRL's SFTTrainer, with our token ids and labels and with every number weighted by token."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.utils import FusedCausalLMOutput

from trainer_image.collation import IGNORED_LABEL, MicroBatch, StepCollator
from trainer_image.distributed import ALONE, Group
from trainer_image.errors import TrainingFailed
from trainer_image.parent_adapter import WEIGHTS_NAME, load_adapter_weights
from tuning.contract import ErrorCode, JobSpec

TOKENS_PER_MICRO_BATCH = {"cuda": 8192, "cpu": 2048}
"""Padded tokens in one forward pass; a step with more is split, which changes its memory and not its result. A CPU
is fastest while the activations fit its caches and a forward pass is not too short: of 1024, 2048, 4096 and 8192
tokens, 2048 and 4096 took the least time for each step of a 1.8 M parameter model."""
ROWS_PER_EVALUATION_BATCH = 64
"""Read at once; the collator splits them by tokens as well."""


@dataclass
class TokenTotals:
    """Sums over supervised tokens: the only exact way to put batches of different sizes together."""

    tokens: int = 0
    loss: float = 0.0
    correct: int = 0

    def add(self, outputs: FusedCausalLMOutput) -> None:
        self.tokens += int(outputs.label_mask.sum())
        self.loss -= float(outputs.log_probs.detach().sum())
        self.correct += int(outputs.is_top1.sum())

    def over(self, group: Group) -> "TokenTotals":
        tokens, loss, correct = group.sum(self.tokens, self.loss, self.correct)
        return TokenTotals(int(tokens), loss, int(correct))

    @property
    def mean_loss(self) -> float:
        return self.loss / max(1, self.tokens)

    @property
    def accuracy(self) -> float:
        return self.correct / max(1, self.tokens)


class SupervisedTrainer(SFTTrainer):  # type: ignore[misc]
    """A dataloader batch is one optimizer step: the list of micro-batches that StepCollator made of its examples.

    Of several trainers each has its own micro-batches of the same step, and adds its gradients to those of the others.
    """

    # `training_step` divides by the whole step's tokens, so that transformers must not scale the loss again.
    loss_is_scaled_for_ga = True

    step_totals = TokenTotals()
    """Of the step that ran last."""
    spec: JobSpec
    group: Group

    def training_step(
        self, model: torch.nn.Module, inputs: list[MicroBatch], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        self.step_totals = TokenTotals()
        tokens = sum(int((batch["labels"] != IGNORED_LABEL).sum()) for batch in inputs)
        step_tokens = torch.tensor(self.group.sum(tokens)[0], dtype=torch.int64, device=self.args.device)
        with (
            self.group.together(self.spec),
            self.group.own_randomness(self.args.seed, self.state.global_step),
        ):
            for micro_batch in inputs:
                SFTTrainer.training_step(self, model, micro_batch, step_tokens)
            self._raise_if_diverged()
        self.step_totals = self.step_totals.over(self.group)
        self.group.sum_gradients(model.parameters())
        return torch.tensor(self.step_totals.mean_loss, device=self.args.device)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: MicroBatch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        outputs = self._forward(model, inputs)
        self.step_totals.add(outputs)
        loss: torch.Tensor = -outputs.log_probs.sum() / num_items_in_batch
        return loss

    def evaluate_tokens(self, rows: Dataset) -> TokenTotals:
        """Without dropout and without gradients; the training goes on as if this had not been called."""
        totals = TokenTotals()
        self.model.eval()
        with self.group.together(self.spec), torch.no_grad(), self.compute_loss_context_manager():
            for start in range(0, len(rows), ROWS_PER_EVALUATION_BATCH):
                examples = rows.select(range(start, min(start + ROWS_PER_EVALUATION_BATCH, len(rows))))
                for micro_batch in self.data_collator(list(examples)):
                    totals.add(self._forward(self.model, self._prepare_inputs(micro_batch)))
        self.model.train()
        return totals.over(self.group)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The adapter alone: a state needs no tokenizer, and PEFT must not ask the hub about the vocabulary."""
        self.model.save_pretrained(output_dir, save_embedding_layers=False)

    def create_model_card(self, *_: object, **__: object) -> None:
        """TRL writes one beside every state; nobody would read it."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        load_adapter_weights(self.model, Path(resume_from_checkpoint) / WEIGHTS_NAME)

    def _raise_if_diverged(self) -> None:
        if not math.isfinite(self.step_totals.loss):
            raise TrainingFailed(
                ErrorCode.DIVERGED,
                f"Training diverged: the loss of step {self.state.global_step + 1} is {self.step_totals.loss}. "
                "Lower learning_rate_multiplier (a tenth is a good next try), or raise batch_size.",
                "learning_rate_multiplier",
            )

    def _forward(self, model: torch.nn.Module, inputs: MicroBatch) -> FusedCausalLMOutput:
        # TRL's head scores tokens in tiles: the logits [tokens, vocabulary] never lie in memory whole on a GPU.
        return model(**inputs, use_cache=False, fused_lm_head=True)


def build_trainer(
    spec: JobSpec,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    work_dir: Path,
    group: Group = ALONE,
) -> SupervisedTrainer:
    method = spec.method
    has_gpu = torch.cuda.is_available()
    steps = math.ceil(len(rows) / method.batch_size) * method.n_epochs
    config = SFTConfig(
        output_dir=str(work_dir),
        num_train_epochs=method.n_epochs,
        per_device_train_batch_size=method.batch_size,
        learning_rate=method.learning_rate,
        lr_scheduler_type=method.lr_scheduler_type,
        warmup_steps=math.ceil(method.warmup_ratio * steps),
        weight_decay=method.weight_decay,
        max_grad_norm=method.max_grad_norm,
        seed=spec.seed,
        data_seed=spec.seed,
        bf16=spec.base_model.dtype == "bfloat16",
        optim="adamw_torch_fused" if has_gpu else "adamw_torch",
        # Recomputing activations costs up to a third of the speed; on a GPU running out of memory costs the job.
        gradient_checkpointing=has_gpu,
        dataloader_pin_memory=has_gpu,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,  # rows were cut when they were rendered
        router_aux_loss_coef=0.0,  # the loss is that of the supervised tokens and nothing else
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SupervisedTrainer(
        model=model,
        args=config,
        train_dataset=rows,
        data_collator=StepCollator(
            method.packing,
            TOKENS_PER_MICRO_BATCH["cuda" if has_gpu else "cpu"],
            trainer=group.rank,
            trainers=group.size,
        ),
        processing_class=tokenizer,
    )
    trainer.spec, trainer.group = spec, group
    trainer.remove_callback(PrinterCallback)
    return trainer
