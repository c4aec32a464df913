"""The pre-training corpus: two endless, seeded streams of chat rows, made while they are read."""

import random
from collections.abc import Iterator
from typing import Any

from domains import read_domains
from text_tasks import copy_row, text_row
from tool_calls import no_tool_row, tool_call_row


def copy_rows(seed: int) -> Iterator[dict[str, Any]]:
    """Short rows that can only be answered by copying from the question: the skill that calling a new tool rests on."""
    rng = random.Random(seed)
    while True:
        yield copy_row(rng)


def mixed_rows(seed: int) -> Iterator[dict[str, Any]]:
    rng, domains = random.Random(seed), read_domains()
    while True:
        kind = rng.random()
        if kind < 0.65:
            yield tool_call_row(rng, domains)
        elif kind < 0.69:
            yield no_tool_row(rng, domains)
        else:
            yield text_row(rng)
