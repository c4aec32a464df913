"""Reinforcement by GRPO: answers are drawn from the model, graded, and made more or less likely by how each compares
with the others to the same prompt.

A step draws `samples_per_prompt` answers to each of its prompts and makes one update with them, so that the model that
is trained is the one that answered: the ratio of the two is 1, and nothing is ever clipped. The loss is that of TRL's
`loss_type="dapo"`, which is its default: the mean over all tokens of the step, where every token counts the same. Means
over each answer first (`grpo`) would favour short good answers and long bad ones; means over a micro-batch (`bnpo`)
would depend on how the step is cut.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from trl.trainer.utils import add_fused_lm_head

from trainer_image.collation import IGNORED_LABEL, MicroBatch
from trainer_image.errors import TrainingFailed
from trainer_image.methods.reference import Reference
from trainer_image.methods.rewards import PARAM, Reward, RewardGrader
from trainer_image.methods.sampling import AnswerSampler, Question
from trainer_image.methods.step_trainer import (
    ROWS_PER_EVALUATION_BATCH,
    News,
    StepTrainer,
    Sums,
)
from trainer_image.sequence_collation import SequenceCollator
from tuning.contract import ErrorCode, ReinforcementSpec
from tuning.graders.sample import Sample

MAX_UNGRADED_STEPS = 3
"""In a row, in which no answer could be graded. An answer that cannot be is worth 0, and the model may learn that; a
grader that fails for all of them teaches nothing."""
RESERVED_KEYS = ("messages", "tools")
"""Of a row: what the model is asked. The other keys are the grader's `item`."""
SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class Answer:
    ids: list[int]
    text: str
    reward: Reward


@dataclass(frozen=True)
class PromptAnswers:
    """The answers to one prompt."""

    prompt_ids: np.ndarray
    question: str
    """The user's last message."""
    answers: list[Answer]

    @property
    def rewards(self) -> np.ndarray:
        return np.array([answer.reward.value for answer in self.answers])


@dataclass(frozen=True)
class Tally:
    """Of the answers of all trainers."""

    reward_mean: float
    reward_std: float
    """Of the answers to one prompt, on average."""
    answers: int
    failures: int

    def metrics(self) -> dict[str, float]:
        return {"reward_mean": self.reward_mean, "reward_std": self.reward_std}


class ReinforcementTrainer(StepTrainer):
    SUMS = ("tokens", "loss")

    # --- before the first step ------------------------------------------------------------------------------------

    def on_rows_loaded(self) -> None:
        spec, method = self.spec, self._method
        with self.group.together(spec):
            private = _local_folders(self.args.output_dir, spec.output_uri, spec.adapters_uri)
            self._grader = RewardGrader(method.grader, private)
        self._sampler = AnswerSampler(self.model, self.processing_class, spec.base_model.stop_tokens, spec.seed)
        self._reference = Reference(self.model, is_new_adapter=spec.parent_adapter_sha256 is None)
        # Scored at the temperature that they are drawn at: it is that distribution which is trained.
        add_fused_lm_head(self.model.get_base_model(), temperature=method.temperature)
        # Not shared out: the prompts are, and each trainer scores its own answers.
        tokens = self.data_collator.tokens_per_micro_batch
        self.data_collator = SequenceCollator(("",), ("advantage",), method.packing, tokens)
        self._ungraded_steps = 0
        self._has_told_failures = False
        self._news: list[News] = []

    @property
    def _method(self) -> ReinforcementSpec:
        assert isinstance(self.spec.method, ReinforcementSpec)
        return self.spec.method

    # --- a step ---------------------------------------------------------------------------------------------------

    def training_step(
        self, model: torch.nn.Module, inputs: list[Any], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        step = self.state.global_step + 1
        prompts = self._own_part([(f"step {step} prompt {place}", row) for place, row in enumerate(inputs)])
        with self.group.together(self.spec):
            groups = self._answer(prompts, self._method.samples_per_prompt, self._method.temperature)
        self._tally = self._count(groups)
        self._look_at_failures(step, groups)
        examples = [example for group in groups for example in examples_of(group)]
        own = sum(len(example["input_ids"]) for example in examples)
        self.state.num_input_tokens_seen += int(self.group.sum(own)[0]) - own  # the others'
        return super().training_step(model, examples, num_items_in_batch)

    def count_units(self, batch: MicroBatch) -> int:
        return int((batch["labels"] != IGNORED_LABEL).sum())

    def score(self, model: torch.nn.Module, batch: MicroBatch) -> tuple[torch.Tensor, Sums]:
        inputs = {name: batch[name] for name in ("input_ids", "labels", "position_ids")}
        beta = self._method.beta
        reference = self._reference_log_probs(model, inputs) if beta > 0 else None
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        advantages = batch["advantage"][batch["sequence"][:, 1:]]  # of the token that is predicted
        losses = token_losses(outputs.log_probs, advantages, reference, beta)
        loss = torch.where(outputs.label_mask, losses, 0).sum()
        return loss, {"tokens": int(outputs.label_mask.sum()), "loss": float(loss.detach())}

    def metrics(self, sums: Sums) -> dict[str, float]:
        return {"loss": sums["loss"] / max(1.0, sums["tokens"]), **self._tally.metrics()}

    def _reference_log_probs(self, model: torch.nn.Module, inputs: MicroBatch) -> torch.Tensor:
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad(), self._reference.in_place():
            log_probs: torch.Tensor = model(**inputs, use_cache=False, fused_lm_head=True).log_probs
        self.model.train(was_training)
        return log_probs

    # --- answers and their rewards --------------------------------------------------------------------------------

    def _own_part(self, prompts: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        """Of several trainers each has as many long ones as the others."""
        by_length = sorted(prompts, key=lambda prompt: -len(prompt[1]["input_ids"]))
        return by_length[self.group.rank :: self.group.size]

    def _answer(self, prompts: Sequence[tuple[str, Any]], count: int, temperature: float) -> list[PromptAnswers]:
        """`prompts`: each with the key of its random numbers."""
        questions = [
            Question(row["input_ids"], f"{key} answer {number}") for key, row in prompts for number in range(count)
        ]
        drawn = self._sampler.draw(
            questions,
            max_tokens=self._method.max_completion_tokens,
            temperature=temperature,
            precision=self.accelerator.autocast(),
        )
        texts = [self._text(ids) for ids in drawn]
        rows = [json.loads(str(row["item"])) for _, row in prompts]
        items = [{name: value for name, value in row.items() if name not in RESERVED_KEYS} for row in rows]
        rewards = self._grader.grade([(Sample(text), items[place // count]) for place, text in enumerate(texts)])
        answers = [Answer(*parts) for parts in zip(drawn, texts, rewards, strict=True)]
        return [
            PromptAnswers(
                row["input_ids"], str(rows[place]["messages"][-1]["content"]), answers[place * count :][:count]
            )
            for place, (_, row) in enumerate(prompts)
        ]

    def _text(self, ids: list[int]) -> str:
        """As vLLM would answer."""
        text: str = self.processing_class.decode(
            self._sampler.without_stop(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _count(self, groups: Sequence[PromptAnswers]) -> Tally:
        prompts, means, stds, answers, failures = self.group.sum(
            len(groups),
            sum(float(group.rewards.mean()) for group in groups),
            sum(_std(group.rewards) for group in groups),
            sum(len(group.answers) for group in groups),
            len(_failures(groups)),
        )
        return Tally(means / max(1, prompts), stds / max(1, prompts), int(answers), int(failures))

    # --- validation -----------------------------------------------------------------------------------------------

    def evaluate_rows(self, rows: Dataset) -> dict[str, float]:
        """One answer to each row is the most likely one; several are drawn as in training. The random numbers are the
        same each time, so that two evaluations differ by the model alone."""
        count = self._method.eval_samples
        temperature = self._method.temperature if count > 1 else 0.0
        groups: list[PromptAnswers] = []
        with self.group.together(self.spec):
            own = range(self.group.rank, len(rows), self.group.size)
            for start in range(0, len(own), ROWS_PER_EVALUATION_BATCH):
                part = own[start : start + ROWS_PER_EVALUATION_BATCH]
                groups += self._answer([(f"validation {place}", rows[place]) for place in part], count, temperature)
        tally = self._count(groups)
        self._tell_answers(groups, tally)
        return {"loss": -tally.reward_mean, **tally.metrics()}

    # --- what people should see -----------------------------------------------------------------------------------

    def take_news(self) -> list[News]:
        news, self._news = self._news, []
        return news

    def _tell_answers(self, groups: Sequence[PromptAnswers], tally: Tally) -> None:
        step = self.state.global_step
        if tally.failures == tally.answers:
            reason = _failures(groups)[:1]
            message = f"The grader could grade no answer to the validation rows: {reason[0] if reason else 'see above'}"
            self._news.append(News("warn", "ungraded-validation", message))
        by_reward = sorted(
            ((group, answer) for group in groups for answer in group.answers), key=lambda each: -each[1].reward.value
        )
        if by_reward:
            best, worst = (_shown(*by_reward[place]) for place in (0, -1))
            message = f"Validation after step {step}: best answer {best}; worst answer {worst}"
            self._news.append(News("info", f"answers-{step}", message))

    def _look_at_failures(self, step: int, groups: Sequence[PromptAnswers]) -> None:
        """Raises TrainingFailed when the grader has failed too often."""
        tally, reasons = self._tally, _failures(groups)
        self._ungraded_steps = self._ungraded_steps + 1 if tally.failures == tally.answers else 0
        if reasons and not self._has_told_failures:
            self._has_told_failures = True
            message = (
                f"The grader failed for {tally.failures} of {tally.answers} answers of step {step}, which count as "
                f"reward 0: {reasons[0][: 2 * SHOWN_CHARACTERS]}. Later ones are not told."
            )
            self._news.append(News("warn", "ungraded", message))
        with self.group.together(self.spec):
            if self._ungraded_steps >= min(MAX_UNGRADED_STEPS, self.state.max_steps) and reasons:
                raise TrainingFailed(
                    ErrorCode.GRADER_FAILED,
                    f"The grader gave no reward for any answer of the last {self._ungraded_steps} steps: {reasons[0]}. "
                    "Try it on an answer and a row with POST /v1/fine_tuning/alpha/graders/run, and check that every "
                    "row of the training file has the keys that it reads.",
                    PARAM,
                )


def compute_advantages(rewards: np.ndarray) -> np.ndarray:
    """How much better each answer is than the others to its prompt, in their standard deviations."""
    advantages: np.ndarray = (rewards - rewards.mean()) / (_std(rewards) + 1e-4)
    return advantages


def token_losses(
    log_probs: torch.Tensor, advantages: torch.Tensor, reference: torch.Tensor | None, beta: float
) -> torch.Tensor:
    """All [rows, tokens]. The ratio of the model to the one that answered is 1; what counts is its gradient."""
    ratios = torch.exp(log_probs - log_probs.detach())
    if reference is None:
        return -ratios * advantages
    gaps = reference - log_probs
    divergence = torch.exp(gaps) - gaps - 1  # http://joschu.net/blog/kl-approx.html, k3
    # The ratio weighs it too (https://arxiv.org/abs/2512.02556): only so is the gradient that of the divergence.
    return ratios * (beta * divergence - advantages)


def _std(rewards: np.ndarray) -> float:
    return float(rewards.std(ddof=1)) if len(rewards) > 1 else 0.0


def examples_of(group: PromptAnswers) -> list[dict[str, Any]]:
    prompt = np.full(len(group.prompt_ids), IGNORED_LABEL)
    return [
        {
            "input_ids": np.concatenate([group.prompt_ids, answer.ids]),
            "labels": np.concatenate([prompt, answer.ids]),
            "advantage": np.float32(advantage),
        }
        for answer, advantage in zip(group.answers, compute_advantages(group.rewards), strict=True)
    ]


def _failures(groups: Sequence[PromptAnswers]) -> list[str]:
    return [answer.reward.failure for group in groups for answer in group.answers if answer.reward.failure is not None]


def _shown(group: PromptAnswers, answer: Answer) -> str:
    return f"(reward {answer.reward.value:.3g}) {_shorten(answer.text)} to {_shorten(group.question)}"


def _shorten(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…")


def _local_folders(*places: str) -> list[Path]:
    return [Path(place.removeprefix("file://")) for place in places if place.startswith(("/", "file://"))]
