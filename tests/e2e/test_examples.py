"""The example data: its generators make what is committed, and what nobody tidied is validated right."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.fixtures.service import RunningService
from tuning.catalogue import DEFAULT_CATALOGUE

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CONTEXT_LENGTH = 1024  # fettle-tiny's


def generate(example: str, output: Path) -> None:
    command = [sys.executable, str(EXAMPLES / example / "generate.py"), "--output", str(output)]
    subprocess.run(command, check=True, capture_output=True)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize("name", ["train", "validation", "held_out"])
def test_the_committed_tool_calls_are_what_the_generator_makes(tmp_path: Path, name: str) -> None:
    generate("tool_calls", tmp_path)
    assert (tmp_path / f"{name}.jsonl").read_bytes() == (EXAMPLES / "tool_calls" / f"{name}.jsonl").read_bytes()


def test_no_held_out_call_and_no_held_out_request_is_trained_on() -> None:
    def call(row: dict[str, Any]) -> str:
        return json.dumps(row["messages"][-1]["tool_calls"][0]["function"])

    held_out, train = (read(EXAMPLES / "tool_calls" / f"{name}.jsonl") for name in ("held_out", "train"))
    assert len(held_out) >= 50
    assert not {call(row) for row in held_out} & {call(row) for row in train}
    requests = [{row["messages"][0]["content"] for row in rows} for rows in (held_out, train)]
    assert not requests[0] & requests[1]


def test_the_receipt_of_untidied_text_is_right_row_by_row(own_service: RunningService, tmp_path: Path) -> None:
    generate("stdlib_docstrings", tmp_path)
    rows = read(tmp_path / "train.jsonl")
    assert len(rows) >= 3000
    tokenizer = AutoTokenizer.from_pretrained(DEFAULT_CATALOGUE.parent / "base_models" / "fettle-tiny")
    ids = [tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"] for row in rows]
    # the template ends a turn with a newline that is no longer trained on, nor needed
    too_long = [number for number, row_ids in enumerate(ids, start=1) if len(row_ids) - 1 > CONTEXT_LENGTH]
    assert too_long

    with (tmp_path / "train.jsonl").open("rb") as file:
        uploaded = own_service.client.files.create(file=file, purpose="fine-tune")
    job = own_service.client.fine_tuning.jobs.create(model="fettle-tiny", training_file=uploaded.id)
    own_service.wait_for_job(job.id, timeout=180, until=lambda job: job.status != "validating_files")
    own_service.client.fine_tuning.jobs.cancel(job.id)
    receipt: Any = next(event.data for event in own_service.events(job.id) if "receipt" in event.message)
    assert sorted(receipt["cut_rows"] + receipt["dropped_rows"]) == too_long
    assert receipt["trained_rows"] == len(rows) - len(receipt["dropped_rows"])
