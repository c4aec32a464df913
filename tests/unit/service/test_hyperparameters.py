"""From "auto" to numbers."""

import pytest

from service.fine_tuning.hyperparameters import Hyperparameters, resolve, to_supervised_spec
from tuning.catalogue import CatalogueEntry

ENTRY = CatalogueEntry(
    name="m", source="/m", context_length=512, stop_tokens=("</s>",), learning_rate=2e-4, batch_size=16
)


@pytest.mark.parametrize(
    ("rows", "epochs", "batch_size"),
    [
        (10, 10, 1),  # 30 examples in three epochs would be under 100: 100 // 10
        (33, 3, 4),
        (34, 3, 4),
        (4, 25, 1),
        (1000, 3, 16),
        (8333, 3, 16),
        (8334, 2, 16),
        (100_000, 1, 16),
    ],
)
def test_auto_follows_openais_rule_for_epochs_and_keeps_steps_enough(rows: int, epochs: int, batch_size: int) -> None:
    resolved = resolve(Hyperparameters(), ENTRY, rows)
    assert (resolved.n_epochs, resolved.batch_size, resolved.learning_rate_multiplier) == (epochs, batch_size, 1.0)


def test_what_was_asked_for_stays() -> None:
    asked = Hyperparameters(n_epochs=2, batch_size=256, learning_rate_multiplier=0.1)
    assert resolve(asked, ENTRY, 10).model_dump() == asked.model_dump()


def test_the_multiplier_multiplies_the_models_own_rate() -> None:
    resolved = resolve(Hyperparameters(learning_rate_multiplier=0.5), ENTRY, 100)
    spec = to_supervised_spec(resolved, ENTRY)
    assert spec.learning_rate == pytest.approx(1e-4)
    assert spec.max_length == 512
