"""KTO's reference point: from which rows it is estimated, and what it does to rows of one kind."""

import numpy as np
import pytest

from tests.fixtures.tiny_model import build_tiny_model
from tests.fixtures.training_job import write_job
from tests.fixtures.training_run import build_trainer
from trainer_image.collation import IGNORED_LABEL
from trainer_image.methods.kto import KtoTrainer, draw_partners, mismatch
from trainer_image.methods.step_trainer import StepTrainer


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> StepTrainer:
    model = tmp_path_factory.mktemp("model")
    build_tiny_model(model)
    folder = tmp_path_factory.mktemp("jobs")
    trainer = build_trainer(write_job(folder / "job", model, method="kto", rows=9, batch_size=4), folder)
    trainer.on_rows_loaded()
    return trainer


@pytest.mark.parametrize("count", [2, 3, 50])
def test_every_row_has_another_row_as_its_partner_and_each_one_once(count: int) -> None:
    partners = draw_partners(count, seed=3)
    assert sorted(partners) == list(range(count))
    assert all(partner != row for row, partner in enumerate(partners))
    assert np.array_equal(partners, draw_partners(count, seed=3))


def test_neighbours_in_the_file_are_not_partners_by_rule() -> None:
    """They may well be the good and the bad answer to one prompt."""
    partners = draw_partners(1000, seed=3)
    assert sum(abs(partner - row) == 1 for row, partner in enumerate(partners)) < 20


def row(prompt: list[int], answer: list[int]) -> dict[str, np.ndarray]:
    ids = np.array([*prompt, *answer], dtype=np.int32)
    return {"input_ids": ids, "labels": np.array([IGNORED_LABEL] * len(prompt) + answer, dtype=np.int32)}


def test_a_mismatched_row_is_one_prompt_with_the_other_answer_cut_to_the_jobs_length() -> None:
    one, other = row([1, 2, 3], [4]), row([5], [6, 7, 8])
    for max_length, ids in ((9, [1, 2, 3, 6, 7, 8]), (5, [1, 2, 3, 6, 7])):
        mixed = mismatch(one, other, max_length)
        assert mixed["input_ids"].tolist() == ids
        assert mixed["labels"].tolist() == [IGNORED_LABEL] * 3 + ids[3:]


def test_the_reference_point_is_the_mean_over_the_rows_and_never_below_zero(trainer: StepTrainer) -> None:
    assert isinstance(trainer, KtoTrainer)
    rows = trainer.train_dataset
    drift = np.array([-3.0, 1.0, 2.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    shifted = np.array(rows["mismatched_reference"]) - drift  # as if the model had drifted so far since
    rows = rows.remove_columns("mismatched_reference").add_column("mismatched_reference", shifted)
    assert trainer._estimate_drift(rows, [0, 1, 2, 3]) == pytest.approx(1.25, abs=1e-5)
    assert trainer._estimate_drift(rows, [3, 1]) == pytest.approx(3, abs=1e-5)
    assert trainer._estimate_drift(rows, [0, 1]) == 0


def test_rows_of_one_kind_are_trained_on_and_have_no_margin(trainer: StepTrainer) -> None:
    rows = trainer.train_dataset
    wanted = rows.select([index for index in range(len(rows)) if rows[index]["is_desirable"]])
    wanted = wanted.select_columns(["input_ids", "labels", "is_desirable"])
    assert set(trainer.evaluate_rows(wanted)) == {"loss", "reward_accuracy"}
    alone = trainer.evaluate_rows(wanted.select([0]))
    assert alone["loss"] == pytest.approx(0.5)
