"""Writes train.jsonl, validation.jsonl, held_out.jsonl and grader.json: things that are to be written as JSON.

Deterministic: the same rows on every machine. Rows have no answers, only what the grader looks for in one. No thing of
one size is in two files.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

SEED = 30
ROWS = {"train": 40, "validation": 8, "held_out": 12}

THINGS = ("lamp", "kettle", "tent", "radio", "chair", "clock", "blender", "heater", "fan", "scale", "drill", "mirror")
SIZES = range(1, 11)

GRADE = """\
def grade(sample, item):
    answer = sample.get("output_json")
    if not isinstance(answer, dict):
        return 0.0
    wanted = item["keys"]
    named = sum(key in answer for key in wanted) / len(wanted)
    others = sum(key not in wanted for key in answer)
    return 0.2 + 0.8 * named / (1 + others)
"""
"""`output_json` is there when the answer is JSON. A little of the reward is for that alone, or a model that never finds
the keys would not learn to write JSON either."""

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent)
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name, rows in make_rows().items():
        (output / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"{name}.jsonl: {len(rows)} rows")
    grader = {"type": "python", "name": "two keys", "source": GRADE}
    (output / "grader.json").write_text(json.dumps(grader, indent=2) + "\n", encoding="utf-8")


def make_rows() -> dict[str, list[Row]]:
    pairs = [(thing, size) for thing in THINGS for size in SIZES]
    random.Random(SEED).shuffle(pairs)
    rows, start = {}, 0
    for name, count in ROWS.items():
        rows[name] = [_row(*pair) for pair in pairs[start : start + count]]
        start += count
    return rows


def _row(thing: str, size: int) -> Row:
    question = f"Write a JSON object with the keys name and size: {thing} {size}"
    return {"messages": [{"role": "user", "content": question}], "keys": ["name", "size"]}


if __name__ == "__main__":
    main()
