"""Writes train.jsonl, validation.jsonl and held_out.jsonl: smart-home requests and the tool calls they ask for.

Deterministic: the same rows on every machine. A held-out row asks for a (tool, place, value) that no other file has.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wording import AFTER, BEFORE, SKILLS, Skill, Value

SEED = 20
TRAIN_ROWS, VALIDATION_ROWS, HELD_OUT_ROWS = 2000, 100, 64

Combination = tuple[Skill, str, Value]
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent)
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name, rows in make_rows().items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (output / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}.jsonl: {len(rows)} rows")


def make_rows() -> dict[str, list[Row]]:
    rng = random.Random(SEED)
    combinations = [(skill, place, value) for skill in SKILLS for place in skill.places for value in skill.phrases]
    held_out, trained = _split(rng, combinations)
    seen: set[str] = set()
    rows = {
        "held_out": [_new_row(rng, combination, seen) for combination in held_out],
        "validation": [_new_row(rng, rng.choice(trained), seen) for _ in range(VALIDATION_ROWS)],
        "train": [_new_row(rng, combination, seen) for combination in _in_turn(rng, trained, TRAIN_ROWS)],
    }
    _check(rows)
    return rows


def _split(rng: random.Random, combinations: list[Combination]) -> tuple[list[Combination], list[Combination]]:
    """Holds combinations out, but no more than a fifth of those of one place or one value of a tool."""
    rng.shuffle(combinations)
    held_out: list[Combination] = []
    for skill, place, value in combinations:
        same_place = sum(1 for other in held_out if other[:2] == (skill, place))
        same_value = sum(1 for other in held_out if (other[0], other[2]) == (skill, value))
        if len(held_out) < HELD_OUT_ROWS and same_place < 2 and same_value < len(skill.places) / 5:
            held_out.append((skill, place, value))
    return held_out, [combination for combination in combinations if combination not in held_out]


def _in_turn(rng: random.Random, combinations: list[Combination], count: int) -> Iterator[Combination]:
    """Every combination about equally often, in a new order each time round."""
    order: list[Combination] = []
    for _ in range(count):
        if not order:
            order = rng.sample(combinations, len(combinations))
        yield order.pop()


def _new_row(rng: random.Random, combination: Combination, seen: set[str]) -> Row:
    """A row whose wording no earlier row has."""
    while True:
        text = _request(rng, *combination)
        if text not in seen:
            seen.add(text)
            return _row(rng, text, *combination)


def _request(rng: random.Random, skill: Skill, place: str, value: Value) -> str:
    own = skill.own_templates.get(value, [])
    template = rng.choice(own) if own and rng.random() < 0.6 else rng.choice(skill.templates)
    text = template.format(where=rng.choice(skill.places[place]), what=rng.choice(skill.phrases[value]))
    if rng.random() < 0.55:
        text = f"{rng.choice(BEFORE)} {text}"
    if rng.random() < 0.45:
        text += rng.choice([", ", " "]) + rng.choice(AFTER)
    if rng.random() < 0.6:
        text = text[0].upper() + text[1:]
    return text + rng.choice(["", "", ".", ".", "!", "?"])


def _row(rng: random.Random, text: str, skill: Skill, place: str, value: Value) -> Row:
    others = rng.sample([other for other in SKILLS if other is not skill], k=2)
    tools = [one.schema() for one in rng.sample([skill, *others], k=len(others) + 1)]
    arguments = json.dumps({"entity": f"{skill.device}.{place}", skill.what: value}, ensure_ascii=False)
    call = {
        "id": f"call_{rng.getrandbits(48):012x}",
        "type": "function",
        "function": {"name": skill.tool, "arguments": arguments},
    }
    messages = [{"role": "user", "content": text}, {"role": "assistant", "tool_calls": [call]}]
    return {"messages": messages, "tools": tools}


def _check(rows: dict[str, list[Row]]) -> None:
    """Nothing that is asked in the end was trained on: neither the words nor the call."""
    texts = {name: {row["messages"][0]["content"] for row in part} for name, part in rows.items()}
    calls = {name: {_call(row) for row in part} for name, part in rows.items()}
    for name in ("train", "validation"):
        assert not texts["held_out"] & texts[name]
        assert not calls["held_out"] & calls[name]
    assert not texts["train"] & texts["validation"]
    assert len(calls["held_out"]) == len(rows["held_out"]) == HELD_OUT_ROWS


def _call(row: Row) -> tuple[str, str]:
    function = row["messages"][-1]["tool_calls"][0]["function"]
    return function["name"], function["arguments"]


if __name__ == "__main__":
    main()
