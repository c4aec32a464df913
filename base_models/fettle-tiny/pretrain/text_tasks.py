"""Pre-training rows without tools: repeat, follow, write as JSON, name the module, continue a text."""

import json
import random
from typing import Any

import words

Row = dict[str, Any]


def text_row(rng: random.Random) -> Row:
    turns = [rng.choice(_TASKS)(rng) for _ in range(_count_turns(rng))]
    messages: list[dict[str, Any]] = []
    if rng.random() < 0.1:
        messages.append({"role": "system", "content": words.sentence(rng)})
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def copy_row(rng: random.Random) -> Row:
    question, answer = rng.choice(_COPY_TASKS)(rng)
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _count_turns(rng: random.Random) -> int:
    """Mostly one to three turns; one row in thirty has up to twenty, so that late positions are trained too."""
    return rng.randint(12, 20) if rng.random() < 1 / 30 else rng.randint(1, 3)


def _some_words(rng: random.Random, low: int, high: int) -> list[str]:
    return [words.some_word(rng) for _ in range(rng.randint(low, high))]


def _repeat(rng: random.Random) -> tuple[str, str]:
    text = " ".join(_some_words(rng, 2, 9)) if rng.random() < 0.7 else words.sentence(rng)
    return _ask_to_repeat(rng, text)


def _repeat_nonsense(rng: random.Random) -> tuple[str, str]:
    parts = [words.nonsense(rng) if rng.random() < 0.6 else words.some_word(rng) for _ in range(rng.randint(3, 12))]
    return _ask_to_repeat(rng, " ".join(parts))


def _ask_to_repeat(rng: random.Random, text: str) -> tuple[str, str]:
    return rng.choice(["Repeat this: ", "Repeat: ", "Say again: ", "Copy this text: "]) + text, text


def _which_word_follows(rng: random.Random) -> tuple[str, str]:
    row = list(dict.fromkeys(_some_words(rng, 4, 9)))
    if len(row) < 2:
        return _repeat(rng)
    place = rng.randrange(len(row) - 1)
    return f"Which word follows {row[place]}?\n{' '.join(row)}", row[place + 1]


def _write_as_json(rng: random.Random) -> tuple[str, str]:
    keys = list(dict.fromkeys(words.nonsense(rng) if rng.random() < 0.5 else rng.choice(_KEYS) for _ in range(3)))
    values = [_value(rng) for _ in keys]
    spoken = ", ".join(f"{key} {rng.choice(['is ', '', '= '])}{value}" for key, value in zip(keys, values, strict=True))
    asked = rng.choice(["Write as JSON: ", "As JSON: ", "Turn this into a JSON object: "])
    return asked + spoken, json.dumps(dict(zip(keys, values, strict=True)))


_KEYS = ["name", "age", "city", "size", "count", "price", "colour", "day", "level", "title", "owner", "year", "id"]


def _value(rng: random.Random) -> str | int:
    return rng.randint(0, 2000) if rng.random() < 0.4 else words.some_word(rng)


def _identifier(rng: random.Random) -> tuple[str, str]:
    parts = [word.lower() for word in _some_words(rng, 2, 4)]
    return f"Write in snake case: {' '.join(parts)}", "_".join(parts)


def _number(rng: random.Random) -> tuple[str, str]:
    word, number = rng.choice(list(words.NUMBERS.items()))
    return f"Write as a number: {word}", str(number)


def _module(rng: random.Random) -> tuple[str, str]:
    """Documentation of a module that does not exist, and its name."""
    name = ".".join(words.nonsense(rng) for _ in range(rng.randint(1, 2)))
    kind, verb = rng.choice(_DOCUMENTED), rng.choice(_DOES)
    text = f"{verb} {name.split('.')[-1]} {kind}. {words.sentence(rng)}"
    if rng.random() < 0.3:
        text += f"\n\n    >>> {name.split('.')[0]}.open({rng.randint(1, 99)})\n    {rng.choice(['True', 'None', '[]'])}"
    return rng.choice(["Which module is this?\n", "Name the module.\n\n"]) + text, name


_DOCUMENTED = ["records", "streams", "archives", "sockets", "paths", "tokens", "threads", "numbers", "messages"]
_DOES = ["Read and write", "Parse", "Convert", "Compress", "Compare", "Schedule", "Encode", "Access to"]


def _prose(rng: random.Random) -> tuple[str, str]:
    sentences = [words.sentence(rng) for _ in range(rng.randint(1, 3))]
    return rng.choice(["Tell me something.", "Write some text.", "Go on."]), " ".join(sentences)


_TASKS = [
    _repeat, _repeat, _which_word_follows, _write_as_json, _write_as_json, _identifier, _number, _module, _prose,
]  # fmt: skip
_COPY_TASKS = [_repeat_nonsense] * 7 + [_which_word_follows] * 2 + [_write_as_json, _identifier]
