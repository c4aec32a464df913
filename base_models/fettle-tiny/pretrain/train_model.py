"""The model and its training loop: plain PyTorch, one pass over batches that are made as they are needed."""

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from make_tokenizer import CONTEXT_LENGTH, VOCABULARY_SIZE
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BATCH_ROWS = 32
LEARNING_RATE = 2e-3
WARM_UP_STEPS = 50
PROMPT_WEIGHT = 0.15  # prompts are mostly unpredictable; what follows from them, the answers, matters more
LENGTH_WINDOW = 16  # batches sorted by length together, which saves most of the padding


@dataclass(frozen=True)
class Limits:
    steps: int
    seconds: float


@dataclass(frozen=True)
class Batch:
    """`ids` and `weights`: (rows, longest row); a padded position weighs 0."""

    ids: torch.Tensor
    weights: torch.Tensor


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def train_model(model: LlamaForCausalLM, batches: Iterator[Batch], limits: Limits) -> int:
    """Trains in place until the steps or the seconds are used up; returns the steps taken."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    started = time.monotonic()
    model.train()
    for step, batch in enumerate(batches, start=1):
        seconds = time.monotonic() - started
        done = max(step / limits.steps, seconds / limits.seconds)
        if done > 1:
            return step - 1
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, step / WARM_UP_STEPS) * _decay(done)
        answer_loss = _train_step(model, optimizer, batch)
        if step % 20 == 0 or step == 1:
            print(f"step {step}/{limits.steps}  answer loss {answer_loss:.4f}  {seconds:.0f} s", flush=True)
    raise AssertionError("batches have no end")


def _decay(done: float) -> float:
    """Full rate for two thirds, then a cosine down to a fiftieth."""
    return 1.0 if done < 2 / 3 else 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (3 * done - 2)))


def _train_step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=batch.ids[:, :-1], use_cache=False).logits
    weights = batch.weights[:, 1:].flatten()
    losses = functional.cross_entropy(logits.float().flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none")
    (losses * weights).sum().div(weights.sum()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return losses[weights == 1].mean().item()


def make_batches(tokenizer: PreTrainedTokenizerFast, rows: Iterator[dict[str, Any]]) -> Iterator[Batch]:
    order = torch.Generator().manual_seed(0)
    while True:
        window = [_encode(tokenizer, row) for row in itertools.islice(rows, BATCH_ROWS * LENGTH_WINDOW)]
        window.sort(key=lambda encoded: len(encoded[0]))
        for index in torch.randperm(LENGTH_WINDOW, generator=order).tolist():
            yield _pad(window[index * BATCH_ROWS : (index + 1) * BATCH_ROWS], tokenizer.pad_token_id)


def _encode(tokenizer: PreTrainedTokenizerFast, row: dict[str, Any]) -> tuple[list[int], list[float]]:
    encoded = tokenizer.apply_chat_template(
        row["messages"],
        tools=row.get("tools"),
        return_dict=True,
        return_assistant_tokens_mask=True,
        truncation=True,
        max_length=CONTEXT_LENGTH,
    )
    return encoded["input_ids"], [float(mask) or PROMPT_WEIGHT for mask in encoded["assistant_masks"]]


def _pad(encoded: list[tuple[list[int], list[float]]], pad_id: int) -> Batch:
    longest = max(len(ids) for ids, _ in encoded)
    ids = [row + [pad_id] * (longest - len(row)) for row, _ in encoded]
    weights = [row + [0.0] * (longest - len(row)) for _, row in encoded]
    return Batch(torch.tensor(ids), torch.tensor(weights))
