"""What a receipt needs to know of rows, counted where they are rendered, and put together in the file's order."""

import sys
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tuning.data.findings import ListedRows
from tuning.data.messages import Message
from tuning.data.rendering import RenderedRow, RenderedSequence
from tuning.data.row_digests import row_digest
from tuning.data.rows import ChatRow, LabelledRow, PreferenceRow, PromptRow, Row
from tuning.data.samples import SampleChoice

_MAX_NAMES = 1000
"""Of tools and of items' keys, so that a file of nothing but new names does not fill the memory."""
_MAX_NAME_CHARACTERS = 100


@dataclass(slots=True)
class RowFacts:
    """Of dropped rows no more than their numbers."""

    rows: int = 0
    dropped: dict[str, ListedRows] = field(default_factory=lambda: defaultdict(ListedRows))
    """By the reason."""
    all_dropped: ListedRows = field(default_factory=ListedRows)
    cut: ListedRows = field(default_factory=ListedRows)
    empty: ListedRows = field(default_factory=ListedRows)
    """Where nothing but stop tokens is supervised."""
    content: bytearray = field(default_factory=bytearray)
    """What the file's digest is made of; whoever has used it empties it."""
    numbers: "array[int]" = field(default_factory=lambda: array("Q"))
    digests: "array[int]" = field(default_factory=lambda: array("Q"))
    """With `numbers`, for `RowDigests`; whoever has used them empties them."""
    tokens: int = 0
    supervised_tokens: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    """How many rows have how many tokens; of a preference, in the longer of its two conversations."""
    supervised: Counter[int] = field(default_factory=Counter)
    answers: tuple[Counter[int], Counter[int]] = field(default_factory=lambda: (Counter(), Counter()))
    """Of preferences: how many of the wanted, and of the other answers, have how many supervised tokens."""
    turns: int = 0
    """Supervised ones, and those whose last supervised token is a stop token."""
    stopped_turns: int = 0
    roles: Counter[str] = field(default_factory=Counter)
    offered_tools: Counter[str] = field(default_factory=Counter)
    called_tools: Counter[str] = field(default_factory=Counter)
    labels: Counter[bool] = field(default_factory=Counter)
    item_keys: Counter[str] = field(default_factory=Counter)
    samples: SampleChoice = field(default_factory=SampleChoice)

    def add(self, row: Row, rendered: RenderedRow, stop_ids: Collection[int]) -> None:
        """Rows come in the file's order."""
        self.rows += 1
        if rendered.dropped_because is not None:
            self.dropped[rendered.dropped_because].add(row.number)
            self.all_dropped.add(row.number)
            return
        digest = row_digest(rendered)
        length = max(len(sequence.input_ids) for sequence in rendered.sequences)
        self.numbers.append(row.number)
        self.digests.append(digest)
        self._add_tokens(rendered, length, stop_ids)
        self._add_messages(row)
        self.samples.offer(rendered, length, digest)

    def extend(self, later: "RowFacts") -> None:
        """Facts of the rows that come next in the file."""
        self.rows += later.rows
        for reason, rows in later.dropped.items():
            self.dropped[reason].extend(rows)
        self.all_dropped.extend(later.all_dropped)
        self.cut.extend(later.cut)
        self.empty.extend(later.empty)
        self.content += later.content
        self.numbers += later.numbers
        self.digests += later.digests
        self.tokens += later.tokens
        self.supervised_tokens += later.supervised_tokens
        self.turns += later.turns
        self.stopped_turns += later.stopped_turns
        self.lengths.update(later.lengths)
        self.supervised.update(later.supervised)
        for answers, others in zip(self.answers, later.answers, strict=True):
            answers.update(others)
        self.roles.update(later.roles)
        self.labels.update(later.labels)
        for names, more in (
            (self.offered_tools, later.offered_tools),
            (self.called_tools, later.called_tools),
            (self.item_keys, later.item_keys),
        ):
            for name, count in more.items():
                _count(names, name, count)
        self.samples.extend(later.samples)

    def _add_tokens(self, row: RenderedRow, length: int, stop_ids: Collection[int]) -> None:
        supervised = row.supervised_tokens
        self.tokens += row.tokens
        self.supervised_tokens += supervised
        self.lengths[length] += 1
        self.supervised[supervised] += 1
        if row.is_cut:
            self.cut.add(row.number)
        stopped = 0
        for sequence in row.sequences:
            self.content += len(sequence.input_ids).to_bytes(4, "little")
            self.content += _little_endian(sequence)
            self.content += sequence.is_supervised
            for last in _last_tokens(sequence):
                self.turns += 1
                stopped += last in stop_ids
        self.content += row.note
        self.stopped_turns += stopped
        if supervised and supervised == stopped:
            self.empty.add(row.number)
        if len(row.sequences) == 2:
            for answers, sequence in zip(self.answers, row.sequences, strict=True):
                answers[sequence.supervised_tokens] += 1

    def _add_messages(self, row: Row) -> None:
        for message in _messages_of(row):
            self.roles[message["role"]] += 1
            for call in message.get("tool_calls", ()):
                _count(self.called_tools, call["function"]["name"])
        for tool in _tools_of(row) or ():
            _count(self.offered_tools, tool["function"]["name"])
        if isinstance(row, LabelledRow):
            self.labels[row.is_desirable] += 1
        elif isinstance(row, PromptRow):
            item: dict[str, Any] = msgspec.json.decode(row.item)
            for key in item.keys() - {"messages", "tools"}:
                _count(self.item_keys, key[:_MAX_NAME_CHARACTERS])


def _last_tokens(sequence: RenderedSequence) -> Iterator[int]:
    """Of each supervised turn. Between two of them stands at least what begins an assistant turn."""
    ids, mask = sequence.input_ids, sequence.is_supervised
    end = mask.find(b"\1\0")
    while end >= 0:
        yield ids[end]
        end = mask.find(b"\1\0", end + 1)
    if mask.endswith(b"\1"):
        yield ids[-1]


def _messages_of(row: Row) -> list[Message]:
    """The prompt of a preference once."""
    match row:
        case LabelledRow():
            return row.conversation.messages
        case PreferenceRow():
            return row.chosen.messages + row.rejected.messages[row.rejected.places.answer_start :]
        case ChatRow() | PromptRow():
            return row.messages


def _tools_of(row: Row) -> list[Message] | None:
    match row:
        case LabelledRow():
            return row.conversation.tools
        case PreferenceRow():
            return row.chosen.tools
        case ChatRow() | PromptRow():
            return row.tools


def _count(names: Counter[str], name: str, count: int = 1) -> None:
    if name in names or len(names) < _MAX_NAMES:
        names[name] += count


def _little_endian(sequence: RenderedSequence) -> bytes:
    if sys.byteorder == "little":
        return sequence.input_ids.tobytes()
    swapped = sequence.input_ids[:]
    swapped.byteswap()
    return swapped.tobytes()
