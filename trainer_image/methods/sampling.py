"""Answers drawn from the model as it is: many side by side, and each as if it were drawn alone.

An answer has random numbers of its own, one for each token. They follow from the job's seed and from the answer's key,
and from nothing else. So the same answers are drawn whatever lies beside them, however many trainers share the work,
and whether or not the run was interrupted before; and drawing them disturbs no other random numbers.
"""

import gc
import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase

from trainer_image.errors import is_out_of_memory

log = logging.getLogger("trainer")

TOKENS_AT_ONCE = {"cuda": 131_072, "cpu": 16_384}
"""Whose keys and values are held, padding included: at 128 kB for each of an 8B model, 16 GB. Halved when they do not
fit."""


@dataclass(frozen=True)
class Question:
    prompt_ids: np.ndarray
    key: str
    """What the answer is for; two questions of one key get the same random numbers."""


class AnswerSampler:
    def __init__(
        self, model: PeftModel, tokenizer: PreTrainedTokenizerBase, stop_tokens: Sequence[str], seed: int
    ) -> None:
        self._model = model
        self._seed = seed
        base = model.get_base_model()
        self._stop_ids = _stop_ids(base.generation_config, tokenizer, stop_tokens)
        # What the model's own file asks for, such as top_k or a repetition penalty, would be another distribution than
        # the one that is trained.
        base.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        self._tokens_at_once = TOKENS_AT_ONCE["cuda" if torch.cuda.is_available() else "cpu"]

    def draw(
        self,
        questions: Sequence[Question],
        *,
        max_tokens: int,
        temperature: float,
        precision: AbstractContextManager[None],
    ) -> list[list[int]]:
        """An answer to each, with the stop token that ends it unless it was cut off. Temperature 0: the most likely
        token each time. `precision`: that of the training."""
        answers: list[list[int]] = [[] for _ in questions]
        order = sorted(range(len(questions)), key=lambda index: -len(questions[index].prompt_ids))
        was_training = self._model.training
        self._model.eval()
        with torch.no_grad(), precision:
            start = 0
            while start < len(order):
                width = len(questions[order[start]].prompt_ids) + max_tokens
                part = order[start : start + max(1, self._tokens_at_once // width)]
                try:
                    drawn = self._draw([questions[index] for index in part], max_tokens, temperature)
                except Exception as error:
                    if not is_out_of_memory(error) or len(part) == 1:
                        raise
                    self._make_do_with_less(len(part) * width)
                    continue
                for index, answer in zip(part, drawn, strict=True):
                    answers[index] = answer
                start += len(part)
        self._model.train(was_training)
        return answers

    def _draw(self, questions: Sequence[Question], max_tokens: int, temperature: float) -> Iterator[list[int]]:
        width = max(len(question.prompt_ids) for question in questions)
        input_ids = torch.full((len(questions), width), self._stop_ids[0])
        mask = torch.zeros_like(input_ids)
        for row, question in enumerate(questions):
            start = width - len(question.prompt_ids)  # padded on the left: answers begin side by side
            input_ids[row, start:] = torch.as_tensor(question.prompt_ids)
            mask[row, start:] = 1
        device = self._model.device
        processors = LogitsProcessorList()
        if temperature > 0:
            numbers = torch.stack([self._numbers(question.key, max_tokens) for question in questions])
            processors.append(_ByNumbers(numbers.to(device), temperature))
        ids = self._model.generate(
            input_ids=input_ids.to(device),
            attention_mask=mask.to(device),
            logits_processor=processors,
            generation_config=GenerationConfig(  # type: ignore[no-untyped-call]
                do_sample=False,
                max_new_tokens=max_tokens,
                eos_token_id=self._stop_ids,
                pad_token_id=self._stop_ids[0],
                use_cache=True,
            ),
        )
        return map(self._up_to_stop, ids[:, width:].tolist())

    def _numbers(self, key: str, count: int) -> torch.Tensor:
        digest = hashlib.sha256(f"{self._seed} {key}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        return torch.rand(count, generator=generator, dtype=torch.float64)

    def _up_to_stop(self, ids: list[int]) -> list[int]:
        end = next((place for place, token in enumerate(ids) if token in self._stop_ids), len(ids) - 1)
        return ids[: end + 1]

    def without_stop(self, answer: list[int]) -> list[int]:
        return answer[:-1] if answer and answer[-1] in self._stop_ids else answer

    def _make_do_with_less(self, tokens: int) -> None:
        self._tokens_at_once = tokens // 2
        log.warning("the answers do not fit into memory: from now on %d tokens at once", self._tokens_at_once)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class _ByNumbers(LogitsProcessor):
    """Leaves one token possible: where the next number of the answer falls, when all tokens lie side by side, each as
    wide as it is probable."""

    def __init__(self, numbers: torch.Tensor, temperature: float) -> None:
        """`numbers`: [answers, tokens], from 0 to 1."""
        self._columns = iter(numbers.unbind(1))
        self._temperature = temperature

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        ends = torch.softmax(scores.double() / self._temperature, dim=-1).cumsum(-1)
        places = next(self._columns).unsqueeze(1) * ends[:, -1:]
        # right=True: no place lies in a token of probability 0
        tokens = torch.searchsorted(ends, places, right=True).clamp(max=ends.shape[1] - 1)
        chosen: torch.FloatTensor = torch.full_like(scores, -torch.inf).scatter_(1, tokens, 0.0)  # type: ignore[assignment]
        return chosen


def _stop_ids(config: GenerationConfig, tokenizer: PreTrainedTokenizerBase, stop_tokens: Sequence[str]) -> list[int]:
    """Where vLLM stops too: at the catalogue's tokens, and at the model's own."""
    own = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    ids = [*map(tokenizer.convert_tokens_to_ids, stop_tokens), *own, tokenizer.eos_token_id]
    return list(dict.fromkeys(token for token in ids if isinstance(token, int)))
