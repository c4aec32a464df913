"""`python -m service.evaluation.questions_worker`: the process that `questions.py` starts and talks to."""

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from service.evaluation.questions import HeldOut, Question
from service.object_storage import open_chunks
from service.object_storage.base import S3Access
from tuning.catalogue import CatalogueEntry
from tuning.data.formats import parse_row
from tuning.data.lines import split_blocks, split_lines
from tuning.data.rendering import ChatRenderer
from tuning.data.rows import ChatRow, LabelledRow, PreferenceRow, PromptRow, Row


def main() -> None:
    asked = json.load(sys.stdin)
    held_out = HeldOut(**asked["held_out"])
    renderer = ChatRenderer.from_entry(CatalogueEntry.model_validate(asked["entry"]), held_out.max_length)
    json.dump([asdict(each) for each in questions(held_out, renderer, asked["s3"])], sys.stdout)


def questions(held_out: HeldOut, renderer: ChatRenderer, s3: S3Access) -> Iterator[Question]:
    """Rows that were left out of the training file's like are left out here too, so that there may be fewer."""
    count = min(held_out.count, held_out.rows)
    chosen = set(random.Random(held_out.seed).sample(range(held_out.rows), count))
    lines = (line for block in split_blocks(open_chunks(held_out.uri, **s3)) for line in split_lines(block))
    for index, (number, line) in enumerate(lines):
        if index in chosen:
            row = parse_row(line, number, held_out.method)
            if renderer.render(row).dropped_because is None:
                yield _as_question(row, line, renderer)


def _as_question(row: Row, line: bytes, renderer: ChatRenderer) -> Question:
    match row:
        case PromptRow():
            item = json.loads(row.item)
            return Question(row.number, _as_sent(row.messages), row.tools, None, 0, [], [], item)
        case PreferenceRow():
            return _with_answer(row.chosen, line, renderer, is_wanted=True)
        case LabelledRow():
            return _with_answer(row.conversation, line, renderer, is_wanted=row.is_desirable)
        case ChatRow():
            return _with_answer(row, line, renderer, is_wanted=True)


def _with_answer(row: ChatRow, line: bytes, renderer: ChatRenderer, *, is_wanted: bool) -> Question:
    """The last trained turn is what is asked for; all of them are measured."""
    last = max(i for i, is_trained in enumerate(row.is_trained) if is_trained)
    messages = _as_sent(row.messages)
    if not is_wanted:
        return Question(row.number, messages[:last], row.tools, None, 0, [], [], _item(line, None))
    expected = messages[last]
    [sequence] = renderer.render(row).sequences
    ids = list(sequence.input_ids)
    # vLLM measures a prompt while it makes one token after it.
    measured = ids[: renderer.max_length - 1]
    answer_tokens = len(ids) - len(renderer.render_prompt(row, last))
    return Question(
        row.number,
        messages[:last],
        row.tools,
        expected,
        max(1, answer_tokens),
        measured,
        list(sequence.is_supervised[: len(measured)]),
        _item(line, expected),
    )


def _item(line: bytes, expected: dict[str, Any] | None) -> dict[str, Any]:
    item: dict[str, Any] = json.loads(line)
    return item if expected is None else {"expected": expected["content"], **item}


def _as_sent(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Call arguments are objects for the template and strings in the API."""
    sent = []
    for message in messages:
        if calls := message.get("tool_calls"):
            functions = [call | {"function": _with_text_arguments(call["function"])} for call in calls]
            message = message | {"tool_calls": functions}
        sent.append(message)
    return sent


def _with_text_arguments(function: dict[str, Any]) -> dict[str, Any]:
    return function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}


if __name__ == "__main__":
    main()
