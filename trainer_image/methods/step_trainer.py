"""What every method has in common: one optimizer step over the examples of a batch, exactly and with little memory.

A method is a subclass that says how a micro-batch is scored, and what its sums mean. The loss of a step is the sum over
all its units, divided by their number: tokens where each is predicted, rows where answers are compared. So it does not
depend on how the step is cut into micro-batches, or over how many trainers it is spread.
"""

import math
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig, SFTTrainer

from trainer_image.collation import MicroBatch, StepCollator
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

Sums = dict[str, float]
"""Totals over micro-batches and trainers, with the names that a method gives them; `loss` is one of them. The only
exact way to put batches of different sizes together."""


class StepTrainer(SFTTrainer):  # type: ignore[misc]
    """A dataloader batch is one optimizer step: the list of micro-batches that the collator made of its examples.

    Of several trainers each has its own micro-batches of the same step, and adds its gradients to those of the others.
    """

    # `training_step` divides by the whole step's units, so that transformers must not scale the loss again.
    loss_is_scaled_for_ga = True

    spec: JobSpec
    group: Group
    step_metrics: dict[str, float]
    """Of the step that ran last, as `metrics` has them."""

    # --- what a method says ---------------------------------------------------------------------------------------

    SUMS: ClassVar[tuple[str, ...]]
    """The names in what `score` answers."""

    @abstractmethod
    def count_units(self, batch: MicroBatch) -> int:
        """What the loss of a step is averaged over."""

    @abstractmethod
    def score(self, model: torch.nn.Module, batch: MicroBatch) -> tuple[torch.Tensor, Sums]:
        """The loss, summed over the micro-batch's units, and all SUMS of the micro-batch as plain numbers."""

    @abstractmethod
    def metrics(self, sums: Sums) -> dict[str, float]:
        """By the names of `tuning.contract.StepMetrics`, without `train_` and the like; `loss` is one."""

    def on_rows_loaded(self) -> None:
        """Once, when all trainers are connected and before the first step: for what must be known of every row."""

    # --- a step ---------------------------------------------------------------------------------------------------

    def training_step(
        self, model: torch.nn.Module, inputs: list[MicroBatch], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        self._running_sums = sums = dict.fromkeys(self.SUMS, 0.0)
        units = sum(self.count_units(batch) for batch in inputs)
        step_units = torch.tensor(self.group.sum(units)[0], dtype=torch.int64, device=self.args.device)
        with (
            self.group.together(self.spec),
            self.group.own_randomness(self.args.seed, self.state.global_step),
        ):
            for micro_batch in inputs:
                SFTTrainer.training_step(self, model, micro_batch, step_units)
            self._raise_if_diverged(sums)
        self.step_metrics = self.metrics(self._over_group(sums))
        self.group.sum_gradients(model.parameters())
        return torch.tensor(self.step_metrics["loss"], device=self.args.device)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: MicroBatch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert num_items_in_batch is not None
        loss, sums = self.score(model, inputs)
        _add(self._running_sums, sums)
        return loss / num_items_in_batch

    # --- validation -----------------------------------------------------------------------------------------------

    def evaluate_rows(self, rows: Dataset) -> dict[str, float]:
        """Without dropout and without gradients; the training goes on as if this had not been called."""
        sums = dict.fromkeys(self.SUMS, 0.0)
        self.model.eval()
        with self.group.together(self.spec), torch.no_grad(), self.compute_loss_context_manager():
            for start in range(0, len(rows), ROWS_PER_EVALUATION_BATCH):
                examples = rows.select(range(start, min(start + ROWS_PER_EVALUATION_BATCH, len(rows))))
                for micro_batch in self.data_collator(list(examples)):
                    _add(sums, self.score(self.model, self._prepare_inputs(micro_batch))[1])
        self.model.train()
        return self.metrics(self._over_group(sums))

    def _over_group(self, sums: Sums) -> Sums:
        return dict(zip(self.SUMS, self.group.sum(*(sums[name] for name in self.SUMS)), strict=True))

    # --- the adapter and its state --------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The adapter alone: a state needs no tokenizer, and PEFT must not ask the hub about the vocabulary."""
        self.model.save_pretrained(output_dir, save_embedding_layers=False)

    def create_model_card(self, *_: object, **__: object) -> None:
        """TRL writes one beside every state; nobody would read it."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        load_adapter_weights(self.model, Path(resume_from_checkpoint) / WEIGHTS_NAME)

    def _raise_if_diverged(self, sums: Sums) -> None:
        if not math.isfinite(sums["loss"]):
            raise TrainingFailed(
                ErrorCode.DIVERGED,
                f"Training diverged: the loss of step {self.state.global_step + 1} is {sums['loss']}. "
                "Lower learning_rate_multiplier (a tenth is a good next try), or raise batch_size.",
                "learning_rate_multiplier",
            )


def _add(sums: Sums, more: Sums) -> None:
    for name, value in more.items():
        sums[name] += value


def training_arguments(spec: JobSpec, rows: int, work_dir: Path) -> SFTConfig:
    """`rows`: that are trained on."""
    method = spec.method
    has_gpu = torch.cuda.is_available()
    steps = math.ceil(rows / method.batch_size) * method.n_epochs
    return SFTConfig(
        output_dir=str(work_dir),
        num_train_epochs=method.n_epochs,
        per_device_train_batch_size=method.batch_size,
        learning_rate=method.learning_rate,
        lr_scheduler_type=method.lr_scheduler_type,
        warmup_steps=math.ceil(method.warmup_ratio * steps),
        weight_decay=method.weight_decay,
        max_grad_norm=method.max_grad_norm,
        neftune_noise_alpha=method.neftune_noise_alpha,
        seed=spec.seed,
        data_seed=spec.seed,
        bf16=spec.base_model.dtype == "bfloat16",
        optim="adamw_torch_fused" if has_gpu else "adamw_torch",
        # Recomputing activations costs up to a third of the speed; on a GPU running out of memory costs the job.
        gradient_checkpointing=has_gpu
        if method.gradient_checkpointing == "auto"
        else method.gradient_checkpointing == "on",
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


def step_collator(spec: JobSpec, group: Group) -> StepCollator:
    tokens = TOKENS_PER_MICRO_BATCH["cuda" if torch.cuda.is_available() else "cpu"]
    return StepCollator(spec.method.packing, tokens, trainer=group.rank, trainers=group.size)


def build(
    kind: type[StepTrainer],
    spec: JobSpec,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    work_dir: Path,
    group: Group = ALONE,
) -> StepTrainer:
    """`kind` makes its own collator when it has another than `step_collator`."""
    trainer = kind(
        model=model,
        args=training_arguments(spec, len(rows), work_dir),
        train_dataset=rows,
        data_collator=step_collator(spec, group),
        processing_class=tokenizer,
    )
    trainer.spec, trainer.group = spec, group
    trainer.remove_callback(PrinterCallback)
    return trainer
