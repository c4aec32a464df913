"""Chats, then preferences: the example of docs/preference.md as it stands there, with a real vLLM on the CPU."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.fixtures.service import RunningService, keep_running
from tuning.data.formats import parse_row

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "preferences"


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (EXAMPLE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_committed_rows_are_what_the_generator_makes_and_the_service_takes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, EXAMPLE / "generate.py", "--output", tmp_path], check=True, capture_output=True)
    for name, method in (("chats", "supervised"), ("preferences", "dpo"), ("labels", "kto"), ("held_out", "orpo")):
        committed = (EXAMPLE / f"{name}.jsonl").read_bytes()
        assert (tmp_path / f"{name}.jsonl").read_bytes() == committed
        for number, line in enumerate(committed.splitlines(), start=1):
            parse_row(line, number, method)


def test_no_held_out_answer_is_trained_on() -> None:
    held_out = {row["preferred_output"][0]["content"] for row in read("held_out")}
    full = {answer for answer in held_out if answer.startswith(("Done", "The"))}  # the others leave the device out
    trained = [row["messages"][1]["content"] for row in read("chats") + read("labels")]
    trained += [row["preferred_output"][0]["content"] for row in read("preferences")]
    assert len(full) >= 8 and not full & set(trained)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("preferences")
    yield from keep_running(RunningService(folder / "data", serving_wait="PT300S"))


@pytest.fixture(scope="module")
def chain(serving: RunningService) -> tuple[FineTuningJob, FineTuningJob]:
    """What the documented example ends with: the job that imitates, and the one that prefers."""
    [code] = re.findall(r"```python\n(import time.*?)```", (ROOT / "docs" / "preference.md").read_text(), re.DOTALL)
    code = code.replace("http://127.0.0.1:8000", serving.url).replace('"examples/', f'"{ROOT}/examples/')
    names: dict[str, Any] = {}
    exec(code, names)
    return names["imitating"], names["preferring"]


def margins(serving: RunningService, model: str, rows: list[dict[str, Any]]) -> list[float]:
    """By how much likelier the preferred answers are, as the served model has it: a logarithm."""
    prompts, starts, ends = [], [], []
    for row in rows:
        [asked] = row["input"]["messages"]
        prompt = f"<|im_start|>user\n{asked['content']}<|im_end|>\n<|im_start|>assistant\n"
        for output in ("preferred_output", "non_preferred_output"):
            prompts.append(f"{prompt}{row[output][0]['content']}<|im_end|>")
            starts.append(len(prompt))
            ends.append(len(prompts[-1]))
    answer = serving.client.completions.create(model=model, prompt=prompts, echo=True, logprobs=0, max_tokens=1)
    sums = []
    for choice, start, end in zip(answer.choices, starts, ends, strict=True):
        assert choice.logprobs is not None and choice.logprobs.text_offset and choice.logprobs.token_logprobs
        tokens = zip(choice.logprobs.text_offset, choice.logprobs.token_logprobs, strict=True)
        sums.append(sum(value for offset, value in tokens if start <= offset < end))
    return [chosen - rejected for chosen, rejected in zip(sums[::2], sums[1::2], strict=True)]


@pytest.mark.skipif(not os.environ.get("FETTLE_TEST_LONG"), reason="FETTLE_TEST_LONG is not set")
@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed on this system")
def test_the_preferred_answers_become_likelier_on_held_out_pairs(
    serving: RunningService, chain: tuple[FineTuningJob, FineTuningJob]
) -> None:
    imitating, preferring = (job.fine_tuned_model for job in chain)
    assert imitating and preferring and chain[1].model == imitating
    held_out = read("held_out")
    before, after = margins(serving, imitating, held_out), margins(serving, preferring, held_out)
    risen = [late > early for early, late in zip(before, after, strict=True)]
    assert sum(risen) >= 0.9 * len(held_out) and sum(after) > sum(before) + len(held_out), (before, after)
    for row in held_out[:3]:
        answer = serving.client.chat.completions.create(
            model=preferring, messages=row["input"]["messages"], temperature=0, max_tokens=64
        )
        content = answer.choices[0].message.content
        assert content and len(content) < 60, "it still answers in many words"
    metrics = [event.data for event in serving.events(chain[1].id) if event.type == "metrics"]
    assert metrics[0]["train_loss"] == pytest.approx(0.693, abs=0.01)
    assert metrics[-1]["train_reward_accuracy"] > 0.8 and metrics[-1]["train_reward_margin"] > 0
