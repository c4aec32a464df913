"""Sequences that are compared: together in memory, and scored as if each lay alone."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trainer_image.collation import IGNORED_LABEL, MicroBatch
from trainer_image.sequence_collation import SequenceCollator, cut_and_pack

LENGTHS = ((7, 30), (12, 5), (19, 3), (4, 4), (28, 29), (9, 11))
VOCABULARY = 50
PREFIXES = ("chosen_", "rejected_")


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).eval()


def examples() -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    rows = []
    for number, lengths in enumerate(LENGTHS):
        row: dict[str, Any] = {"number": number}
        for prefix, length in zip(PREFIXES, lengths, strict=True):
            ids = random.integers(1, VOCABULARY, length, dtype=np.int32)
            labels = np.where(np.arange(length) < length // 2, IGNORED_LABEL, ids)
            row |= {f"{prefix}input_ids": ids, f"{prefix}labels": labels}
        rows.append(row)
    return rows


def sums(model: LlamaForCausalLM, batch: MicroBatch) -> dict[tuple[int, int], float]:
    """Log-probability by example and sequence."""
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    found: dict[tuple[int, int], float] = {}
    for row, place in (batch["labels"] != IGNORED_LABEL).nonzero().tolist():
        score = logits[row, place - 1].log_softmax(-1)[batch["labels"][row, place]]
        example, which = divmod(int(batch["sequence"][row, place]), len(PREFIXES))
        key = int(batch["number"][example]), which
        found[key] = found.get(key, 0.0) + float(score)
    return found


@pytest.mark.parametrize(("packing", "tokens"), [(True, 10_000), (True, 60), (False, 10_000), (False, 60)])
def test_sequences_score_in_any_layout_as_they_do_alone(model: LlamaForCausalLM, packing: bool, tokens: int) -> None:
    expected = {}
    for example in examples():
        for which, prefix in enumerate(PREFIXES):
            [batch] = SequenceCollator((prefix,), ("number",), False, 1)([example])
            expected |= {(number, which): score for (number, _), score in sums(model, batch).items()}

    batches = SequenceCollator(PREFIXES, ("number",), packing, tokens)(examples())
    found = [sums(model, batch) for batch in batches]
    assert sum(len(each) for each in found) == len(expected) == 2 * len(LENGTHS)
    assert {key: score for each in found for key, score in each.items()} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("packing", [True, False])
def test_the_sequences_of_an_example_stay_together_and_a_micro_batch_within_its_tokens(packing: bool) -> None:
    lengths = sorted(LENGTHS, key=lambda each: -max(each))
    cut = cut_and_pack(lengths, 60, packing)
    assert len(cut) > 1
    places = [[place for row in rows for place in row] for rows in cut]
    assert sorted(place for each in places for place in each) == [(n, k) for n in range(len(lengths)) for k in (0, 1)]
    for rows, each in zip(cut, places, strict=True):
        used = [sum(lengths[number][which] for number, which in row) for row in rows]
        longest = max(lengths[number][which] for number, which in each)
        assert max(used) == longest
        assert len(rows) * longest <= 60 or len(each) == 2
        assert packing or len(rows) == len(each)


def test_every_trainer_has_its_part_of_the_examples() -> None:
    parts = [
        SequenceCollator(PREFIXES, ("number",), True, 60, trainer=rank, trainers=4)(examples()) for rank in (0, 1, 2, 3)
    ]
    numbers = [[int(number) for batch in part for number in batch["number"]] for part in parts]
    assert sorted(number for each in numbers for number in each) == list(range(len(LENGTHS)))
    assert {len(each) for each in numbers} == {1, 2}
    assert SequenceCollator(PREFIXES, ("number",), True, 60, trainer=7, trainers=8)(examples()) == []
