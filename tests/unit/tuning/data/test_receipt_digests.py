"""The digests of known files: a job that was checked by one release may be trained by the next (decision 3)."""

from pathlib import Path

import pytest

from tuning.data.receipt import make_receipt
from tuning.data.rendering import ChatRenderer

ROOT = Path(__file__).parents[4]
TINY = ROOT / "base_models/fettle-tiny"


@pytest.mark.parametrize(
    ("rows", "sha256", "tokens", "cut", "dropped"),
    [
        ("tool_calls", "43cafbd52e71f06742bec4f4d91607ca1dd43e2e21a0040b4d8b24621ec66e41", 23696, 2, 0),
    ],
)
def test_the_digest_of_supervised_rows_is_what_it_was(
    rows: str, sha256: str, tokens: int, cut: int, dropped: int
) -> None:
    renderer = ChatRenderer((TINY / "chat_template.jinja").read_text(), TINY / "tokenizer.json", ["<|im_end|>"], 256)
    receipt = make_receipt([(ROOT / f"examples/{rows}/validation.jsonl").read_bytes()], renderer)
    assert (receipt.sha256, receipt.tokens) == (sha256, tokens)
    assert (receipt.total_cut_rows, receipt.total_dropped_rows) == (cut, dropped)
