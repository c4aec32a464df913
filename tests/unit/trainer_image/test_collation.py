import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trainer_image.collation import IGNORED_LABEL, Example, MicroBatch, StepCollator, pack

LENGTHS = (7, 30, 12, 5, 19, 3)
VOCABULARY = 50


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


def examples() -> list[Example]:
    random = np.random.default_rng(0)
    rows = [random.integers(1, VOCABULARY, length, dtype=np.int32) for length in LENGTHS]
    return [{"input_ids": row, "labels": row.copy()} for row in rows]


def log_probabilities(model: LlamaForCausalLM, batch: MicroBatch) -> list[tuple[int, float]]:
    """(label, its log-probability) of every supervised token."""
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    labels = batch["labels"][:, 1:]
    mask = labels != IGNORED_LABEL
    scores = logits.log_softmax(-1)[:, :-1].gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return list(zip(labels[mask].tolist(), scores[mask].tolist(), strict=True))


@pytest.mark.parametrize(("packing", "tokens"), [(True, 10_000), (True, 40), (False, 10_000), (False, 40)])
def test_examples_score_in_any_layout_as_they_do_alone(model: LlamaForCausalLM, packing: bool, tokens: int) -> None:
    alone = StepCollator(packing=False, tokens_per_micro_batch=1)
    expected = [
        pair for example in examples() for batch in alone([example]) for pair in log_probabilities(model, batch)
    ]

    batches = StepCollator(packing, tokens)(examples())
    actual = [pair for batch in batches for pair in log_probabilities(model, batch)]

    assert len(actual) == sum(LENGTHS) - len(LENGTHS)
    for (label, score), (expected_label, expected_score) in zip(sorted(actual), sorted(expected), strict=True):
        assert label == expected_label
        assert score == pytest.approx(expected_score, abs=2e-6)


def test_packing_fills_rows_and_keeps_every_example_once() -> None:
    rows = pack(LENGTHS, 40)
    assert sorted(index for row in rows for index in row) == list(range(len(LENGTHS)))
    assert all(sum(LENGTHS[index] for index in row) <= 40 for row in rows)
    assert len(rows) == 2


def test_without_packing_every_example_has_its_row_longest_first() -> None:
    assert pack(LENGTHS, 0) == [[1], [4], [2], [0], [3], [5]]


def test_micro_batches_stay_within_their_tokens() -> None:
    for batch in StepCollator(packing=True, tokens_per_micro_batch=64)(examples()):
        assert batch["input_ids"].numel() <= 64


@pytest.mark.parametrize("trainers", [1, 2, 4, 8])
def test_several_trainers_share_a_step_without_loss_and_may_have_nothing(trainers: int) -> None:
    parts = [StepCollator(True, 64, trainer=trainer, trainers=trainers)(examples()) for trainer in range(trainers)]
    tokens = [sum(int((batch["labels"] != IGNORED_LABEL).sum()) for batch in part) for part in parts]
    assert sum(tokens) == sum(LENGTHS) - len(LENGTHS)
    assert [trainer for trainer in range(trainers) if not parts[trainer]] == list(range(len(LENGTHS), trainers))
