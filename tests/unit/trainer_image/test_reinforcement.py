"""What reinforcement learns from: TRL's loss on the same answers, answers drawn as they are probable, fair rewards."""

from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import nanstd, pad

from tests.fixtures.tiny_model import STOP_TOKEN, build_tiny_model
from tests.fixtures.training_job import LETTERS, write_job
from tests.fixtures.training_run import build_trainer
from trainer_image.errors import TrainingFailed
from trainer_image.methods.reinforcement import (
    Answer,
    PromptAnswers,
    ReinforcementTrainer,
    compute_advantages,
    examples_of,
)
from trainer_image.methods.rewards import MAX_FUZZY_PAIRS, Reward, RewardGrader
from trainer_image.methods.sampling import AnswerSampler, Question
from trainer_image.model import load_model
from tuning.contract import ErrorCode
from tuning.graders.sample import Sample

REWARDS = ((0.0, 1.0, 0.25), (0.5, 0.5, 0.5), (-3.0, 2.0, 7.0))
PROMPTS = ([5, 6, 7, 8, 9], [40], [30, 31, 32])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_tiny_model(folder)
    return folder


def stir(model: PeftModel) -> PeftModel:
    """As if the adapter had been trained."""
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return model


def trainer_of(folder: Path, model: Path, **changes: Any) -> ReinforcementTrainer:
    job = write_job(folder / "job", model, method="reinforcement", rows=4, **changes)
    trainer = build_trainer(job, folder)
    assert isinstance(trainer, ReinforcementTrainer)
    trainer.on_rows_loaded()
    stir(trainer.model).eval()  # without dropout
    return trainer


def answered() -> list[PromptAnswers]:
    """Of one to eight tokens each."""
    generator = np.random.default_rng(2)
    return [
        PromptAnswers(
            np.array(prompt),
            "",
            [Answer(generator.integers(3, 250, 1 + number).tolist(), "", Reward(value)) for value in rewards],
        )
        for number, (prompt, rewards) in enumerate(zip(PROMPTS, REWARDS, strict=True), start=4)
    ]


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beta", "temperature"), [(0.0, 1.0), (0.0, 0.7), (0.3, 1.3)])
def test_loss_and_gradients_are_trls_whatever_the_micro_batches(
    tmp_path: Path, model: Path, beta: float, temperature: float
) -> None:
    trainer = trainer_of(tmp_path, model, beta=beta, temperature=temperature)
    groups = answered()
    expected_loss, expected = trls(tmp_path, trainer, groups, beta, temperature)
    examples = [example for group in groups for example in examples_of(group)]
    for tokens in (1000, 20, 1):
        trainer.data_collator.tokens_per_micro_batch = tokens
        batches = trainer.data_collator(examples)
        units = sum(trainer.count_units(batch) for batch in batches)
        loss = 0.0
        for batch in batches:
            scored, _ = trainer.score(trainer.model, batch)
            (scored / units).backward()
            loss += float(scored.detach()) / units
        assert loss == pytest.approx(expected_loss, abs=1e-5)
        for name, gradient in gradients(trainer.model).items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)
    assert len(batches) == len(examples)


def trls(
    folder: Path, ours: ReinforcementTrainer, groups: list[PromptAnswers], beta: float, temperature: float
) -> tuple[float, dict[str, torch.Tensor]]:
    """What TRL's own trainer makes of them, with the same policy and reference."""
    source = ours.spec.base_model.source
    policy = stir(load_model(ours.spec, folder)).eval()
    theirs = GRPOTrainer(
        model=policy,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            str(folder),
            beta=beta,
            temperature=temperature,
            use_cpu=True,
            bf16=False,
            report_to="none",
            gradient_checkpointing=False,
            per_device_train_batch_size=8,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["a"] * 8}),
        processing_class=AutoTokenizer.from_pretrained(source),
    )
    assert theirs.loss_type == "dapo"
    prompts = [torch.as_tensor(group.prompt_ids) for group in groups for _ in group.answers]
    completions = [torch.tensor(answer.ids) for group in groups for answer in group.answers]
    inputs = {
        "prompt_ids": pad(prompts, padding_value=0, padding_side="left"),
        "prompt_mask": pad([torch.ones_like(ids) for ids in prompts], padding_value=0, padding_side="left"),
        "completion_ids": pad(completions, padding_value=0),
        "completion_mask": pad([torch.ones_like(ids) for ids in completions], padding_value=0),
        "advantages": torch.cat([advantages_by_trl(torch.tensor(rewards)) for rewards in REWARDS]),
        "num_items_in_batch": torch.tensor(sum(map(len, completions))),
    }
    if beta > 0:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        with torch.no_grad(), policy.disable_adapter():
            inputs["ref_per_token_logps"], *_ = theirs._get_per_token_logps_and_entropies(
                policy, ids, mask, inputs["completion_ids"].shape[1]
            )
    loss = theirs._compute_loss(policy, inputs)
    loss.backward()
    return float(loss.detach()), gradients(policy)


def advantages_by_trl(rewards: torch.Tensor) -> torch.Tensor:
    return (rewards - rewards.nanmean()) / (nanstd(rewards) + 1e-4)


@pytest.mark.parametrize("rewards", REWARDS)
def test_an_answer_counts_by_how_it_compares_with_the_others(rewards: tuple[float, ...]) -> None:
    advantages = compute_advantages(np.array(rewards))
    np.testing.assert_allclose(advantages, advantages_by_trl(torch.tensor(rewards)), rtol=1e-5, atol=1e-6)
    assert abs(advantages.sum()) < 1e-9


# --- the answers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampler(model: Path) -> AnswerSampler:
    return sampler_of(model)


def sampler_of(model: Path, seed: int = 7) -> AnswerSampler:
    tuned = load_lora(model)
    return AnswerSampler(tuned, AutoTokenizer.from_pretrained(model), [STOP_TOKEN], seed)


def load_lora(model: Path) -> Any:
    base = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        base.model.embed_tokens.weight *= 8  # a random model with strong opinions
    return stir(get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5)))


def draw(sampler: AnswerSampler, questions: list[Question], temperature: float = 1.0, tokens: int = 8) -> Any:
    return sampler.draw(questions, max_tokens=tokens, temperature=temperature, precision=nullcontext())


def questions(count: int, prompt: list[int] | None = None) -> list[Question]:
    return [Question(np.array(prompt or range(3, 4 + number % 9)), f"answer {number}") for number in range(count)]


def test_an_answer_is_the_same_alone_and_among_others(sampler: AnswerSampler) -> None:
    asked = questions(12)
    together = draw(sampler, asked)
    assert [draw(sampler, [question])[0] for question in asked] == together
    assert draw(sampler, asked[::-1]) == together[::-1]
    assert len({tuple(answer) for answer in together}) > 6
    torch.manual_seed(99)
    before = torch.get_rng_state()
    draw(sampler, asked)
    assert torch.equal(before, torch.get_rng_state())


def test_another_seed_draws_other_answers(model: Path, sampler: AnswerSampler) -> None:
    assert draw(sampler_of(model, seed=8), questions(4)) != draw(sampler, questions(4))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
def test_tokens_are_drawn_as_often_as_they_are_probable(sampler: AnswerSampler, temperature: float) -> None:
    prompt = [60, 61, 62]
    drawn = Counter(answer[0] for answer in draw(sampler, questions(4000, prompt), temperature, tokens=1))
    with torch.no_grad():
        logits = sampler._model.eval()(torch.tensor([prompt])).logits[0, -1].double()
    probabilities = torch.softmax(logits / temperature, -1)
    for token in probabilities.topk(5).indices.tolist():
        expected = float(probabilities[token])
        assert drawn[token] / 4000 == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 4000) ** 0.5)


def test_temperature_0_is_the_most_likely_token_each_time(sampler: AnswerSampler) -> None:
    [answer] = draw(sampler, questions(1, [60, 61, 62]), temperature=0.0, tokens=6)
    ids = [60, 61, 62]
    for token in answer:
        with torch.no_grad():
            assert int(sampler._model.eval()(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)


def test_an_answer_ends_with_its_stop_token(model: Path) -> None:
    sampler = sampler_of(model)
    stop = sampler._stop_ids[0]
    assert AutoTokenizer.from_pretrained(model).convert_tokens_to_ids(STOP_TOKEN) == stop
    answers = draw(sampler, questions(300), temperature=5.0, tokens=30)  # at which every token is likely enough
    ended = [answer for answer in answers if stop in answer]
    assert ended
    for answer in answers:
        assert len(answer) == 30 or answer[-1] == stop
    for answer in ended:
        assert answer.index(stop) == len(answer) - 1
        assert sampler.without_stop(answer) == answer[:-1]


def test_the_models_own_wishes_for_sampling_are_not_followed(model: Path) -> None:
    plain, wishful = sampler_of(model), load_lora(model)
    for name, value in {"repetition_penalty": 9.0, "top_k": 1, "min_new_tokens": 8, "do_sample": True}.items():
        setattr(wishful.get_base_model().generation_config, name, value)
    other = AnswerSampler(wishful, AutoTokenizer.from_pretrained(model), [STOP_TOKEN], 7)
    assert draw(other, questions(6)) == draw(plain, questions(6))


def test_answers_that_do_not_fit_into_memory_are_drawn_in_smaller_parts(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = sampler_of(model)
    expected = draw(sampler, questions(5))
    generate, sizes = sampler._model.generate, []

    def with_little_memory(**arguments: Any) -> Any:
        sizes.append(len(arguments["input_ids"]))
        if sizes[-1] > 2:
            raise MemoryError
        return generate(**arguments)

    monkeypatch.setattr(sampler._model, "generate", with_little_memory)
    assert draw(sampler, questions(5)) == expected
    assert (sizes[0], max(sizes[-2:])) == (5, 2)


def test_an_answer_that_does_not_fit_alone_is_told_as_it_is(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_memory(**_: Any) -> Any:
        raise MemoryError

    sampler = sampler_of(model)
    monkeypatch.setattr(sampler._model, "generate", without_memory)
    with pytest.raises(MemoryError):
        draw(sampler, questions(1))


# --- the rewards ------------------------------------------------------------------------------------------------------


def graded(grader: Mapping[str, Any], *texts: str, **item: Any) -> list[Reward]:
    return RewardGrader(grader, []).grade([(Sample(text), item) for text in texts])


def python(source: str) -> dict[str, Any]:
    return {"type": "python", "source": source}


def test_rewards_are_the_graders(tmp_path: Path) -> None:
    values = [reward.value for reward in graded(LETTERS, "none", "e", "ee", "heee!", "eeee", letter="e")]
    assert values == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])
    similar = {"type": "text_similarity", "input": "{{sample.output_text}}", "reference": "{{item.answer}}"}
    for metric in ("fuzzy_match", "bleu", "rouge_l", "meteor"):
        best, worst = graded({**similar, "evaluation_metric": metric}, "a red lamp", "xyz", answer="a red lamp")
        assert best.value > 0.9 and worst.value < 0.1


def test_python_grades_in_the_sandbox_and_an_answer_that_it_fails_for_is_worth_0() -> None:
    source = """
import os
def grade(sample, item):
    if os.path.exists("/etc/passwd"):
        return 99.0
    return 1 / len(sample["output_text"]) if item["inverse"] else float("nan")
"""
    long, empty = graded(python(source), "abcd", "", inverse=True)
    assert (long.value, long.failure) == (0.25, None)
    assert empty.value == 0 and empty.failure is not None and "ZeroDivisionError" in empty.failure
    [nan] = graded(python(source), "abcd", inverse=False)
    assert nan.value == 0 and nan.failure is not None and "not finite" in nan.failure


@pytest.mark.parametrize("reference", ["{{item.missing}}", "{{sample.output_json.key}}"])
def test_a_value_that_is_not_there_is_a_failure(reference: str) -> None:
    grader = {"type": "string_check", "input": "x", "reference": reference, "operation": "eq"}
    [reward] = graded(grader, "no json", there=1)
    assert reward.value == 0 and reward.failure is not None


def test_a_reward_beyond_all_measure_is_a_failure() -> None:
    grader = {"type": "multi", "graders": {"a": CHECK}, "calculate_output": "a * 10 ^ 300"}
    [reward] = graded(grader, "x")
    assert reward.value == 0 and reward.failure is not None and "1e+300" in reward.failure


def test_texts_that_would_take_minutes_to_compare_are_a_failure() -> None:
    grader = {"type": "text_similarity", "input": "{{sample.output_text}}", "reference": "{{item.answer}}"}
    length = int(MAX_FUZZY_PAIRS**0.5) + 1
    [reward] = graded({**grader, "evaluation_metric": "fuzzy_match"}, "a" * length, answer="b" * length)
    assert reward.failure is not None and "too long" in reward.failure


CHECK = {"type": "string_check", "input": "x", "reference": "x", "operation": "eq"}
SCORE_MODEL = {"type": "score_model", "name": "judge", "model": "m", "input": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("grader", "reason"),
    [
        (SCORE_MODEL, "a trainer can ask none"),
        ({"type": "multi", "graders": {"judge": SCORE_MODEL}, "calculate_output": "judge"}, "a trainer can ask none"),
        (CHECK | {"input": "{{sample.output_tools[0].function.name}}"}, "names sample.output_tools"),
        (python("def grade(sample): return 1"), "two arguments"),
        (python("import torch\ndef grade(sample, item): return 1"), "Besides the standard library there are numpy"),
        (python("def grade(:"), "SyntaxError"),
        ({"type": "string_check"}, "not valid"),
        ({"type": "oracle"}, "not valid"),
    ],
)
def test_a_grader_that_cannot_grade_here_is_refused_before_training(grader: dict[str, Any], reason: str) -> None:
    with pytest.raises(TrainingFailed, match=reason) as failed:
        RewardGrader(grader, [])
    assert failed.value.error.code is ErrorCode.GRADER_FAILED
    assert failed.value.error.param == "method.reinforcement.grader"


def test_python_is_refused_where_there_is_no_sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TrainingFailed, match=r"bubblewrap is not installed.*Use string_check"):
        RewardGrader(python("def grade(sample, item): return 1"), [])
    assert graded(LETTERS, "e", letter="e")[0].value > 0
