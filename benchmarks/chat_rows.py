"""A training file of any size: chats of mixed length, a quarter of them with tools, always the same for the same size.

The text is the manual that comes with Python, in pieces that begin anywhere, with a new line or paragraph now and then;
every 25th word is a name, a number or a key that was just made up, since text that repeats itself is easy for whoever
remembers words.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

_MADE_UP = 25
_LINE = 30
_SYLLABLES = ("ka", "ro", "min", "tel", "sa", "vor", "ni", "lu", "dra", "pe", "ost", "ber", "qui", "zan", "hol", "ee")


def write_rows(path: Path, size: int) -> int:
    """Of `size` bytes or some more. Returns how many rows."""
    written = rows = 0
    with path.open("wb") as file:
        for row in _rows():
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            written += file.write(line)
            rows += 1
            if written >= size:
                return rows
    raise AssertionError("there is always one more row")


def _rows() -> Iterator[dict[str, Any]]:
    draw = random.Random(20261121)
    manual = " ".join(topics[name] for name in sorted(topics)).split()
    words = [word for word in manual if len(word) < 4 or any(map(str.isalnum, word))]  # without the lines of tables
    systems = [_text(draw, words, 30) for _ in range(20)]
    tools = [_tool(draw, words, number) for number in range(40)]
    number = 0
    while True:
        system = [{"role": "system", "content": draw.choice(systems)}] if draw.random() < 0.4 else []
        if draw.random() < 0.25:
            yield _tool_row(draw, words, system, draw.sample(tools, draw.randrange(1, 5)), f"call_{number}")
        else:
            turns = [turn for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 5))) for turn in _exchange(draw, words)]
            yield {"messages": [*system, *turns]}
        number += 1


def _exchange(draw: random.Random, words: list[str]) -> list[dict[str, Any]]:
    question, answer = (int(draw.lognormvariate(mean, 0.9)) + 1 for mean in (3.3, 4.3))
    return [
        {"role": "user", "content": _text(draw, words, question)},
        {"role": "assistant", "content": _text(draw, words, answer)},
    ]


def _tool_row(
    draw: random.Random, words: list[str], system: list[dict[str, Any]], tools: list[dict[str, Any]], call_id: str
) -> dict[str, Any]:
    arguments = json.dumps({"city": _made_up_word(draw), "days": draw.randrange(30)})
    function = {"name": draw.choice(tools)["function"]["name"], "arguments": arguments}
    messages = [
        *system,
        {"role": "user", "content": _text(draw, words, 15)},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call_id, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call_id, "content": json.dumps({"result": _text(draw, words, 12)})},
        {"role": "assistant", "content": _text(draw, words, 30)},
    ]
    return {"messages": messages, "tools": tools}


def _tool(draw: random.Random, words: list[str], number: int) -> dict[str, Any]:
    properties = {
        "city": {"type": "string", "description": _text(draw, words, 6)},
        "days": {"type": "integer", "description": _text(draw, words, 6)},
    }
    return {
        "type": "function",
        "function": {
            "name": f"tool_{number}",
            "description": _text(draw, words, 15),
            "parameters": {"type": "object", "properties": properties, "required": ["city"]},
        },
    }


def _text(draw: random.Random, words: list[str], count: int) -> str:
    start = draw.randrange(len(words) - count)
    piece = words[start : start + count]
    for i in range(draw.randrange(_MADE_UP), count, _MADE_UP):
        piece[i] = _made_up_word(draw)
    for i in range(draw.randrange(_LINE), count, _LINE):
        piece[i] += draw.choice(("\n", "\n\n", "\n- "))
    return " ".join(piece).replace("\n ", "\n")


def _made_up_word(draw: random.Random) -> str:
    match draw.randrange(3):
        case 0:
            return "".join(draw.choices(_SYLLABLES, k=3)).capitalize()
        case 1:
            return f"{draw.randrange(100_000) / 100:,}"
        case _:
            return f"{draw.getrandbits(48):x}"
