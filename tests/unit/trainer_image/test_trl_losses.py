"""Our losses of whole answers against those of TRL's own trainers, on the same rows, policy and reference."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from tests.fixtures.tiny_model import build_tiny_model
from tests.fixtures.training_job import TrainingJob, write_job
from tests.fixtures.training_run import build_trainer
from trainer_image.collation import IGNORED_LABEL
from trainer_image.methods.kto import draw_partners
from trainer_image.methods.step_trainer import StepTrainer
from trainer_image.model import load_model
from tuning.contract import MethodName

ROWS = 10
OPTIONS: dict[str, Any] = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
TEXT = {"prompt": ["ask"], "chosen": ["yes"], "rejected": ["no"]}
"""TRL's trainers want rows before they say anything about others."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_tiny_model(folder)
    return folder


def stir(model: PeftModel) -> PeftModel:
    """As if the adapter had been trained: so that the policy is far from the reference."""
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return model


def ours(folder: Path, model: Path, method: MethodName, **changes: Any) -> tuple[TrainingJob, StepTrainer]:
    job = write_job(folder / "job", model, method=method, rows=ROWS, batch_size=ROWS, **changes)
    trainer = build_trainer(job, folder)
    stir(trainer.model)
    return job, trainer


def policy_and_reference(job: TrainingJob, folder: Path) -> tuple[PreTrainedModel, PreTrainedModel]:
    base = job.spec.base_model.source
    return stir(load_model(job.spec, folder)).merge_and_unload().eval(), AutoModelForCausalLM.from_pretrained(
        base
    ).eval()


def split(row: dict[str, np.ndarray], prefix: str = "") -> tuple[list[int], list[int]]:
    """Prompt and answer. What follows the stop token is not trained on, and TRL would."""
    [answer] = np.nonzero(row[f"{prefix}labels"] != IGNORED_LABEL)
    ids = row[f"{prefix}input_ids"]
    return ids[: answer[0]].tolist(), ids[answer[0] : answer[-1] + 1].tolist()


def tokenizer(job: TrainingJob) -> Any:
    return AutoTokenizer.from_pretrained(job.spec.base_model.source)


def latest(theirs: Any, name: str) -> float:
    """A metric of TRL's, of the batch before."""
    return float(theirs._metrics["eval"][name][-1])


def test_the_loss_of_dpo_is_trls(tmp_path: Path, model: Path) -> None:
    job, trainer = ours(tmp_path, model, "dpo", beta=0.3)
    examples = []
    for row in trainer.train_dataset:
        (prompt, chosen), (_, rejected) = split(row, "chosen_"), split(row, "rejected_")
        examples.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    policy, reference = policy_and_reference(job, tmp_path)
    theirs = DPOTrainer(
        policy,
        reference,
        DPOConfig(str(tmp_path / "trl"), beta=0.3, **OPTIONS),
        train_dataset=Dataset.from_dict(TEXT),
        processing_class=tokenizer(job),
    )
    policy.eval()
    with torch.no_grad():
        expected = theirs.compute_loss(policy, DataCollatorForPreference(pad_token_id=0)(examples))

    trainer.on_rows_loaded()
    metrics = trainer.evaluate_rows(trainer.train_dataset.select_columns(trainer.train_dataset.column_names[:4]))
    assert abs(metrics["loss"] - 0.693) > 0.01
    assert metrics["loss"] == pytest.approx(float(expected), abs=1e-4)
    assert metrics["reward_accuracy"] == pytest.approx(latest(theirs, "rewards/accuracies"))
    assert metrics["reward_margin"] == pytest.approx(latest(theirs, "rewards/margins"), abs=1e-4)


def test_the_loss_of_kto_is_trls_with_the_same_mismatched_rows(tmp_path: Path, model: Path) -> None:
    changes = {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.7}
    job, trainer = ours(tmp_path, model, "kto", **changes)
    rows = trainer.train_dataset
    answers = [split(row) for row in rows]
    examples = [
        {
            "prompt_ids": prompt,
            "completion_ids": answer,
            "KL_completion_ids": answers[partner][1],
            "label": bool(row["is_desirable"]),
        }
        for row, (prompt, answer), partner in zip(rows, answers, draw_partners(ROWS, job.spec.seed), strict=True)
    ]
    policy, reference = policy_and_reference(job, tmp_path)
    theirs = KTOTrainer(
        policy,
        reference,
        KTOConfig(str(tmp_path / "trl"), **changes, per_device_train_batch_size=2, **OPTIONS),
        train_dataset=Dataset.from_dict({name: values * 2 for name, values in TEXT.items()}),
        processing_class=tokenizer(job),
    )
    policy.eval()
    max_length = job.spec.method.max_length
    with torch.no_grad():
        expected = theirs.compute_loss(policy, DataCollatorForUnpairedPreference(0, max_length)(examples))

    trainer.on_rows_loaded()
    metrics = trainer.evaluate_rows(rows)
    assert latest(theirs, "kl") > 0.01
    assert metrics["loss"] == pytest.approx(float(expected), abs=1e-4)
    assert metrics["reward_margin"] == pytest.approx(latest(theirs, "rewards/margins"), abs=1e-4)


def test_the_loss_of_orpo_is_trls_where_trl_trains_on_no_prompt(tmp_path: Path, model: Path) -> None:
    """TRL's likelihood has the prompt's tokens in it, from the second one, and is a mean over tokens: so a prompt is
    one token here, and the chosen answers are equally long."""
    job, trainer = ours(tmp_path, model, "orpo", beta=0.3)
    random = np.random.default_rng(0)
    columns: dict[str, list[list[int]]] = {}
    for prefix, lengths in (("chosen_", [9] * ROWS), ("rejected_", random.integers(4, 14, ROWS).tolist())):
        ids = [[5, *random.integers(20, 200, length).tolist()] for length in lengths]
        columns |= {f"{prefix}input_ids": ids, f"{prefix}labels": [[IGNORED_LABEL, *row[1:]] for row in ids]}
    rows = Dataset.from_dict(columns).with_format("numpy")
    policy, _ = policy_and_reference(job, tmp_path)
    theirs = ORPOTrainer(
        policy,
        ORPOConfig(str(tmp_path / "trl"), beta=0.3, max_length=512, remove_unused_columns=False, **OPTIONS),
        train_dataset=Dataset.from_dict(TEXT),
        processing_class=tokenizer(job),
    )
    policy.eval()
    asked = [
        {name: values.tolist() for name, values in row.items()}
        | {f"{prefix}attention_mask": [1] * len(row[f"{prefix}input_ids"]) for prefix in ("chosen_", "rejected_")}
        for row in rows
    ]
    with torch.no_grad():
        expected, measured = theirs.get_batch_loss_metrics(policy, theirs.data_collator(asked), "eval")

    trainer.on_rows_loaded()
    metrics = trainer.evaluate_rows(rows)
    assert metrics["loss"] == pytest.approx(float(expected), abs=1e-4)
    assert metrics["reward_accuracy"] == pytest.approx(measured["eval_rewards/accuracies"])
    assert metrics["reward_margin"] == pytest.approx(measured["eval_log_odds_chosen"], abs=1e-4)
