"""The prediction of a trainer's memory: what must hold for every model, and that what is documented was measured."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tuning.memory import (
    CONSTANTS,
    ERROR_PERCENT,
    TOKENS_PER_MICRO_BATCH,
    Training,
    error_percent,
    micro_batch_tokens,
    predict,
)
from tuning.model_shape import LinearLayer, ModelShape

PROJECT = Path(__file__).resolve().parents[3]
MEASURED = json.loads((PROJECT / "benchmarks" / "results" / "memory.json").read_text())

SHAPE = ModelShape(
    hidden_size=512,
    intermediate_size=1536,
    layers=2,
    query_size=512,
    key_value_size=256,
    vocabulary=8192,
    parameters=10_000_000,
    linear_layers=tuple(
        LinearLayer(f"model.layers.{number}.{name}", inputs, outputs)
        for number in range(2)
        for name, inputs, outputs in (("self_attn.q_proj", 512, 512), ("mlp.down_proj", 1536, 512))
    ),
)
TRAINING = Training(
    device="cpu",
    dtype="float32",
    method="supervised",
    r=16,
    target_modules="all-linear",
    lora_dropout=0.0,
    is_quantized=False,
    batch_size=8,
    longest_row=512,
)


def total(**changes: object) -> int:
    return predict(SHAPE, replace(TRAINING, **changes), is_checkpointed=False).total  # type: ignore[arg-type]


def test_what_lies_in_memory_all_the_time_is_counted_exactly() -> None:
    parts = predict(SHAPE, TRAINING, is_checkpointed=False)
    trainable = 2 * 16 * ((512 + 512) + (1536 + 512))
    assert parts.weights == 10_000_000 * 4
    assert (parts.adapter, parts.gradients, parts.optimizer) == (trainable * 4, trainable * 4, trainable * 8)
    quantized = predict(SHAPE, replace(TRAINING, is_quantized=True), is_checkpointed=False)
    in_four_bits = 2 * (512 * 512 + 1536 * 512)
    assert quantized.weights == pytest.approx((10_000_000 - in_four_bits) * 4 + in_four_bits * 0.516, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({}, 2048),
        ({"longest_row": 100}, 800),  # the batch has no more
        ({"longest_row": 300}, 1800),
        ({"longest_row": 5000}, 5000),  # a row is never cut in pieces
        ({"method": "dpo", "longest_row": 1500}, 3000),  # both answers lie in one micro-batch
        ({"device": "cuda", "batch_size": 64}, TOKENS_PER_MICRO_BATCH["cuda"]),
    ],
)
def test_a_micro_batch_has_as_many_tokens_as_the_collator_lays_in_it(changes: dict[str, object], tokens: int) -> None:
    assert micro_batch_tokens(replace(TRAINING, **changes)) == tokens  # type: ignore[arg-type]


def test_every_remedy_for_too_little_memory_takes_less() -> None:
    whole = total()
    assert predict(SHAPE, TRAINING, is_checkpointed=True).total < whole
    assert total(is_quantized=True) < whole
    assert total(dtype="bfloat16") < whole
    assert total(longest_row=1024, batch_size=1) < total(longest_row=4096, batch_size=1)
    assert total(r=8) < whole
    assert whole < total(lora_dropout=0.1)


def test_an_error_is_told_only_for_what_was_measured() -> None:
    assert error_percent(TRAINING) == ERROR_PERCENT
    assert error_percent(replace(TRAINING, method="dpo")) is None
    assert error_percent(replace(TRAINING, is_quantized=True)) is None
    assert error_percent(replace(TRAINING, device="cuda")) is None


def test_the_documented_error_and_the_constants_are_those_of_the_committed_measurement() -> None:
    for dtype in ("float32", "bfloat16"):
        assert asdict(CONSTANTS["cpu", dtype]) == MEASURED["constants"][dtype]
    worst = max(abs(run["error_percent"]) for run in MEASURED["runs"])
    assert MEASURED["worst_percent"] == worst == ERROR_PERCENT
    documented = (PROJECT / "docs" / "estimates.md").read_text()
    for run in MEASURED["runs"]:
        measured, predicted = (f"{run[name] / 1e6:,.0f}" for name in ("measured_bytes", "predicted_bytes"))
        assert f"| {measured} | {predicted} | {run['error_percent']:+.1f} % |" in documented, run["name"]
