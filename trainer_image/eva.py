"""EVA: LoRA begins with the main directions of what its layers are fed, https://arxiv.org/abs/2410.07170.

PEFT's own loop goes on until all directions have settled, which they need not do, and then gives each layer another
rank. Ours reads a bounded number of tokens, and every layer keeps its rank: what is saved is plain LoRA of one rank, as
vLLM serves it. The rows are drawn from the seed, so that the same spec begins with the same adapter.
"""

import logging
import random
from collections.abc import Callable, Iterator

import torch
from datasets import Dataset
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.incremental_pca import IncrementalPCA

from trainer_image.collation import IGNORED_LABEL, Example, MicroBatch, StepCollator
from trainer_image.errors import TrainingFailed
from trainer_image.methods.step_trainer import StepTrainer
from tuning.contract import ErrorCode, JobSpec

log = logging.getLogger("trainer")

TOKENS = 16_384
TOKENS_PER_BATCH = 2048
"""In the paper, most directions have settled after a few batches of such a size."""


def start_from_activations(trainer: StepTrainer, spec: JobSpec) -> None:
    """Changes every lora_A and nothing else: lora_B is still zero, so that the model answers as its base does."""
    layers = {name: module for name, module in trainer.model.named_modules() if isinstance(module, LoraLayer)}
    analyses = _Analyses(spec.lora.r, spec.seed)
    hooks = [layer.register_forward_pre_hook(analyses.hook(name)) for name, layer in layers.items()]
    trainer.model.eval()
    with torch.no_grad(), trainer.compute_loss_context_manager():
        for batch in _batches(trainer.train_dataset, spec):
            analyses.read(trainer.model, {name: tensor.to(trainer.args.device) for name, tensor in batch.items()})
    trainer.model.train()
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        layer.lora_A["default"].weight.data.copy_(_found(analyses, name, spec))
    log.info("EVA: %d layers start from the activations of training rows", len(layers))


class _Analyses:
    """A principal component analysis of each input, shared by the layers that are fed the same one."""

    def __init__(self, r: int, seed: int) -> None:
        self._r = r
        self._seed = seed
        self._of_layer: dict[str, IncrementalPCA] = {}
        self._is_token: torch.Tensor | None = None
        self._seen: tuple[torch.Tensor, IncrementalPCA] | None = None

    def read(self, model: PeftModel, batch: MicroBatch) -> None:
        labels = batch.pop("labels")
        self._is_token, self._seen = labels != IGNORED_LABEL, None
        # With fewer tokens than twice the rank, torch.svd_lowrank finds nothing.
        if int(self._is_token.sum()) >= 2 * self._r:
            model(**batch, use_cache=False, logits_to_keep=1)

    def hook(self, name: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
        def analyse(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if self._seen is not None and self._seen[0] is inputs[0]:
                self._of_layer[name] = self._seen[1]
                return
            analysis = self._of_layer.get(name) or self._new(inputs[0].shape[-1])
            if inputs[0].shape[-1] >= self._r:
                analysis.partial_fit(inputs[0][self._is_token].float())
            self._of_layer[name] = analysis
            self._seen = (inputs[0], analysis)

        return analyse

    def directions(self, name: str) -> torch.Tensor | None:
        """[r, inputs of the layer]. None: it was fed too little."""
        directions: torch.Tensor | None = getattr(self._of_layer.get(name), "components_", None)
        return directions

    def _new(self, inputs: int) -> IncrementalPCA:
        is_wide = inputs >= 2 * self._r
        return IncrementalPCA(n_components=self._r, lowrank=is_wide, lowrank_seed=self._seed if is_wide else None)


def _batches(rows: Dataset, spec: JobSpec) -> Iterator[MicroBatch]:
    """Of each example, whatever its method, one sequence of ids; labels tell padding and first tokens from the rest."""
    examples: list[Example] = []
    tokens = 0
    column = next(name for name in rows.column_names if name.endswith("input_ids"))
    for index in random.Random(spec.seed).sample(range(len(rows)), len(rows)):
        ids = rows[index][column]
        examples.append({"input_ids": ids, "labels": ids})
        tokens += len(ids)
        if tokens >= TOKENS:
            break
    yield from StepCollator(spec.method.packing, TOKENS_PER_BATCH)(examples)


def _found(analyses: _Analyses, name: str, spec: JobSpec) -> torch.Tensor:
    directions = analyses.directions(name)
    if directions is not None:
        return directions
    raise TrainingFailed(
        ErrorCode.INVALID_TRAINING_FILE,
        f"x_training.init_lora_weights eva needs training rows of {2 * spec.lora.r} tokens and layers with "
        f"{spec.lora.r} inputs, for r {spec.lora.r}: there are fewer. Lower x_training.r, or leave out "
        "x_training.init_lora_weights.",
        "x_training.init_lora_weights",
    )
