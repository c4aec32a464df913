"""Writes chats.jsonl, preferences.jsonl, labels.jsonl and held_out.jsonl: what a smart home says when all is done.

Half of the chats are answered in few words and half in many. The preferences, pairs of answers, are for few; the labels
say the same of single answers. Deterministic: the same rows on every machine. A held-out row is about a (device, place,
value) that no other file has.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

SEED = 7
CHATS, PREFERENCES, LABELS, HELD_OUT = 240, 120, 80, 16

DEVICES = {
    "light": ["10 per cent", "25 per cent", "40 per cent", "60 per cent", "80 per cent"],
    "heating": ["17 degrees", "18 degrees", "19 degrees", "21 degrees", "23 degrees"],
    "blind": ["a quarter", "a third", "half", "two thirds", "the top"],
    "radio": ["volume 2", "volume 3", "volume 5", "volume 6", "volume 8"],
}
PLACES = ["kitchen", "bedroom", "hall", "study", "bathroom", "attic", "garage", "cellar"]
REQUESTS = [
    "Set the {device} in the {place} to {value}",
    "{device} in the {place} to {value}, please",
    "Can you put the {device} in the {place} on {value}?",
    "I want the {device} in the {place} at {value}",
]
BRIEF = ["Done: {place}, {device}, {value}.", "The {device} in the {place} is at {value}.", "{value} in the {place}."]
WORDY = [
    "Oh, what a lovely idea! I have just gone and set the {device} in the {place} to {value} for you, and I do hope "
    "that you like it!",
    "Of course, with the greatest pleasure! As you wished, the {device} in the {place} is now at {value}. Is there "
    "anything else at all that I may do?",
]

Combination = tuple[str, str, str]
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent)
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name, rows in make_rows().items():
        (output / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"{name}.jsonl: {len(rows)} rows")


def make_rows() -> dict[str, list[Row]]:
    rng = random.Random(SEED)
    combinations = [(device, place, value) for device in DEVICES for place in PLACES for value in DEVICES[device]]
    rng.shuffle(combinations)
    held_out, trained = combinations[:HELD_OUT], combinations[HELD_OUT:]
    return {
        "chats": [_chat(rng, rng.choice(trained), number % 2 == 0) for number in range(CHATS)],
        "preferences": [_preference(rng, rng.choice(trained)) for _ in range(PREFERENCES)],
        "labels": [_labelled(rng, rng.choice(trained), number % 2 == 0) for number in range(LABELS)],
        "held_out": [_preference(rng, combination) for combination in held_out],
    }


def _chat(rng: random.Random, combination: Combination, is_brief: bool) -> Row:
    answer = _answer(rng, combination, BRIEF if is_brief else WORDY)
    return {"messages": [_request(rng, combination), answer]}


def _preference(rng: random.Random, combination: Combination) -> Row:
    return {
        "input": {"messages": [_request(rng, combination)]},
        "preferred_output": [_answer(rng, combination, BRIEF)],
        "non_preferred_output": [_answer(rng, combination, WORDY)],
    }


def _labelled(rng: random.Random, combination: Combination, is_brief: bool) -> Row:
    return _chat(rng, combination, is_brief) | {"label": is_brief}


def _request(rng: random.Random, combination: Combination) -> Row:
    return {"role": "user", "content": _fill(rng.choice(REQUESTS), combination)}


def _answer(rng: random.Random, combination: Combination, wordings: list[str]) -> Row:
    return {"role": "assistant", "content": _fill(rng.choice(wordings), combination)}


def _fill(wording: str, combination: Combination) -> str:
    device, place, value = combination
    text = wording.format(device=device, place=place, value=value)
    return text[0].upper() + text[1:]


if __name__ == "__main__":
    main()
