"""What every method has in common: one optimizer step over the examples of a batch, exactly and with little memory.

A method is a subclass that says how a micro-batch is scored, and what its sums mean. The loss of a step is the sum over
all its units, divided by their number: tokens where each is predicted, rows where answers are compared. So it does not
depend on how the step is cut into micro-batches, or over how many trainers it is spread.
"""

import gc
import logging
import math
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig, SFTTrainer

from trainer_image.collation import MicroBatch, StepCollator
from trainer_image.distributed import ALONE, Group
from trainer_image.errors import TrainingFailed, is_out_of_memory, out_of_memory
from trainer_image.parent_adapter import WEIGHTS_NAME, load_adapter_weights
from trainer_image.randomness import random_state, set_random_state
from tuning.contract import ErrorCode, JobSpec
from tuning.memory import TOKENS_PER_MICRO_BATCH

log = logging.getLogger("trainer")

ROWS_PER_EVALUATION_BATCH = 64
"""Read at once; the collator splits them by tokens as well."""

Sums = dict[str, float]
"""Totals over micro-batches and trainers, with the names that a method gives them; `loss` is one of them. The only
exact way to put batches of different sizes together."""


class News(NamedTuple):
    """Becomes an event, and never a line of the log: it may hold what users wrote."""

    level: Literal["info", "warn"]
    key: str
    message: str


class StepTrainer(SFTTrainer):  # type: ignore[misc]
    """A dataloader batch is one optimizer step: its examples, of which the collator makes micro-batches.

    Of several trainers each has its own micro-batches of the same step, and adds its gradients to those of the others.
    """

    # `training_step` divides by the whole step's units, so that transformers must not scale the loss again.
    loss_is_scaled_for_ga = True

    spec: JobSpec
    group: Group
    data_collator: Any
    """Makes micro-batches of examples, each of at most `tokens_per_micro_batch`, which may change between two steps."""
    step_metrics: dict[str, float]
    """Of the step that ran last, as `metrics` has them."""
    has_less_room: bool = False
    """A step ran out of memory: since then forward passes are half as large, and activations are computed again."""

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

    def take_news(self) -> list[News]:
        """What people should see of the step that ran last, told once."""
        return []

    # --- a step ---------------------------------------------------------------------------------------------------

    def training_step(
        self, model: torch.nn.Module, inputs: list[Any], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`inputs`: the examples of the step, of which `data_collator` makes micro-batches. Of several trainers, each
        gets all of them."""
        self.state.num_input_tokens_seen += sum(_tokens_of(example) for example in inputs)
        randomness = random_state()
        sums = self._add_gradients(model, inputs)
        if not self.has_less_room and self.group.sum(sums is None)[0] > 0:
            # Cut smaller, from the step's beginning: as if it had been so from the start.
            self._make_do_with_less(model)
            set_random_state(randomness)
            sums = self._add_gradients(model, inputs)
        assert sums is not None
        self.step_metrics = self.metrics(self._over_group(sums))
        self.group.sum_gradients(model.parameters())
        return torch.tensor(self.step_metrics["loss"], device=self.args.device)

    def _add_gradients(self, model: torch.nn.Module, examples: list[Any]) -> Sums | None:
        """Of this trainer's part of the step. None: it ran out of memory, for the first time."""
        micro_batches = self.data_collator(examples)
        self._running_sums = sums = dict.fromkeys(self.SUMS, 0.0)
        units = sum(self.count_units(batch) for batch in micro_batches)
        step_units = torch.tensor(self.group.sum(units)[0], dtype=torch.int64, device=self.args.device)
        with (
            self.group.together(self.spec),
            self.group.own_randomness(self.args.seed, self.state.global_step),
        ):
            try:
                for micro_batch in micro_batches:
                    SFTTrainer.training_step(self, model, micro_batch, step_units)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self.has_less_room:
                    raise out_of_memory(self.spec, max(map(_tokens_of, examples), default=0)) from error
                log.warning("step %d ran out of memory: %s", self.state.global_step + 1, str(error).partition("\n")[0])
                return None
            self._raise_if_diverged(sums)
        return sums

    def _make_do_with_less(self, model: torch.nn.Module) -> None:
        """Memory for time. The step's result does not depend on it."""
        self.has_less_room = True
        model.zero_grad()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.data_collator.tokens_per_micro_batch //= 2
        if not self.args.gradient_checkpointing:
            self.args.gradient_checkpointing = True
            self.model.gradient_checkpointing_enable()
            self.model.enable_input_require_grads()

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Of the examples as they are: `training_step` cuts them, and cuts them again when they did not fit."""
        collator, self.data_collator = self.data_collator, list
        try:
            loader: DataLoader[Any] = super().get_train_dataloader()
        finally:
            self.data_collator = collator
        return loader

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
                "Lower learning_rate_multiplier or x_training.learning_rate, whichever is set (a tenth is a good next "
                "try), or raise batch_size.",
                "learning_rate_multiplier",
            )


def _tokens_of(example: Mapping[str, Any]) -> int:
    """In all its sequences, with their prompts."""
    return sum(len(values) for name, values in example.items() if name.endswith("input_ids"))


def _add(sums: Sums, more: Sums) -> None:
    for name, value in more.items():
        sums[name] += value


def training_arguments(spec: JobSpec, rows: int, work_dir: Path) -> SFTConfig:
    """`rows`: that are trained on."""
    method = spec.method
    has_gpu, is_bfloat16 = torch.cuda.is_available(), spec.base_model.dtype == "bfloat16"
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
        bf16=is_bfloat16,
        use_cpu=is_bfloat16 and not has_gpu,  # which transformers wants to be told
        optim="adamw_torch_fused" if has_gpu else "adamw_torch",
        # Computing activations again costs up to a third of the speed: `auto` is off until a step does not fit.
        gradient_checkpointing=method.gradient_checkpointing == "on",
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
    """`kind` makes its own collator when it has another than `step_collator`, with `tokens_per_micro_batch` too."""
    weights = [(weight, weight.data) for weight in model.parameters() if weight.requires_grad]
    trainer = kind(
        model=model,
        args=training_arguments(spec, len(rows), work_dir),
        train_dataset=rows,
        data_collator=step_collator(spec, group),
        processing_class=tokenizer,
    )
    for weight, value in weights:
        weight.data = value.to(weight.device)  # TRL has made bfloat16 of those on a quantised base
    trainer.spec, trainer.group = spec, group
    trainer.remove_callback(PrinterCallback)
    return trainer
