"""Reads a training file and says what will be trained on. The service makes the receipt, the trainer makes it again.

    rows: list[RenderedRow] = []
    receipt = make_receipt(chunks, renderer, on_row=rows.append)

Memory does not grow with the file, only with what `on_row` keeps.
"""

import codecs
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from pydantic import BaseModel, ConfigDict

from tuning.data.formats import MAX_LINE_BYTES, RowError, parse_row
from tuning.data.rendering import ChatRenderer, RenderedRow, RenderedSequence

MIN_ROWS = 10
"""OpenAI's."""

MAX_LISTED_ROWS = 1000
"""Row numbers that a receipt lists; beyond, it only counts, so that it stays small."""

_MAX_LISTED_ERRORS = 20
_MAX_SUMMARY_ROWS = 20


class DataError(Exception):
    """A file cannot be trained on; the message is the user's. `errors` are the first of `total_errors`."""

    def __init__(self, message: str, errors: tuple[RowError, ...] = (), total_errors: int = 0) -> None:
        super().__init__(message)
        self.errors = errors
        self.total_errors = total_errors


class TooFewRowsError(DataError):
    pass


class DataReceipt(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    """Rows in the file; blank lines are none, but count in row numbers, which are line numbers from 1."""
    trained_rows: int
    """Rows that are not dropped."""
    tokens: int
    """Of the trained rows, as are the counts below."""
    supervised_tokens: int
    longest_row_tokens: int
    cut_rows: tuple[int, ...]
    """Numbers of the first MAX_LISTED_ROWS rows that lost their tail and are still trained on."""
    total_cut_rows: int
    dropped_rows: tuple[int, ...]
    """Numbers of the first MAX_LISTED_ROWS rows whose answer lies beyond `max_length`."""
    total_dropped_rows: int
    template_sha256: str
    max_length: int
    sha256: str
    """Over the ids and masks of the trained rows, in order: what the trainer must reproduce."""

    def summary(self) -> str:
        """One line for people."""
        text = (
            f"{self.trained_rows:,} of {self.rows:,} rows to train on: {self.tokens:,} tokens, "
            f"{self.supervised_tokens:,} of them in the assistant's turns; the longest row has "
            f"{self.longest_row_tokens:,}"
        )
        if self.total_cut_rows:
            text += f"; cut at {self.max_length:,} tokens: {_list_rows(self.cut_rows, self.total_cut_rows)}"
        if self.total_dropped_rows:
            rows = _list_rows(self.dropped_rows, self.total_dropped_rows)
            text += f"; left out, because the answer starts after {self.max_length:,} tokens: {rows}"
        return text


class ReceiptBuilder:
    def __init__(self, renderer: ChatRenderer) -> None:
        self._renderer = renderer
        self._digest = hashlib.sha256()
        self._cut_rows: list[int] = []
        self._dropped_rows: list[int] = []
        self._total_cut_rows = self._total_dropped_rows = 0
        self._trained_rows = self._tokens = self._supervised_tokens = self._longest_row_tokens = 0

    def add(self, row: RenderedRow) -> bool:
        """Whether the row is trained on. Rows come in the file's order."""
        supervised = row.supervised_tokens
        if not supervised:
            self._total_dropped_rows += 1
            if len(self._dropped_rows) < MAX_LISTED_ROWS:
                self._dropped_rows.append(row.number)
            return False
        if row.is_cut:
            self._total_cut_rows += 1
            if len(self._cut_rows) < MAX_LISTED_ROWS:
                self._cut_rows.append(row.number)
        self._trained_rows += 1
        self._tokens += row.tokens
        self._supervised_tokens += supervised
        self._longest_row_tokens = max(self._longest_row_tokens, *(len(each.input_ids) for each in row.sequences))
        for sequence in row.sequences:
            self._digest.update(len(sequence.input_ids).to_bytes(4, "little"))
            self._digest.update(_little_endian(sequence))
            self._digest.update(sequence.is_supervised)
        self._digest.update(row.note)
        return True

    def finish(self) -> DataReceipt:
        return DataReceipt(
            rows=self._trained_rows + self._total_dropped_rows,
            trained_rows=self._trained_rows,
            tokens=self._tokens,
            supervised_tokens=self._supervised_tokens,
            longest_row_tokens=self._longest_row_tokens,
            cut_rows=tuple(self._cut_rows),
            total_cut_rows=self._total_cut_rows,
            dropped_rows=tuple(self._dropped_rows),
            total_dropped_rows=self._total_dropped_rows,
            template_sha256=self._renderer.template_sha256,
            max_length=self._renderer.max_length,
            sha256=self._digest.hexdigest(),
        )


def make_receipt(
    chunks: Iterable[bytes],
    renderer: ChatRenderer,
    on_row: Callable[[RenderedRow], None] | None = None,
    *,
    file: str = "Training file",
    min_rows: int = MIN_ROWS,
) -> DataReceipt:
    """`on_row` gets each trained row, in order; `file` is what messages call the file.

    Raises DataError, with the first errors of the whole file; RenderingError.
    """
    builder = ReceiptBuilder(renderer)
    for row in read_rows(chunks, renderer, file=file):
        if builder.add(row) and on_row is not None:
            on_row(row)
    receipt = builder.finish()
    if not receipt.rows:
        raise TooFewRowsError(f"{file} is empty: it must have at least {min_rows} examples, one JSON object a line")
    if receipt.rows < min_rows:
        raise TooFewRowsError(f"{file} has {receipt.rows} example(s), but must have at least {min_rows} examples")
    if not receipt.trained_rows:
        raise DataError(
            f"{file} has no row to train on: in each, the answer starts after {renderer.max_length:,} tokens, the "
            "most that this base model reads; shorten the rows or choose a base model with a longer context"
        )
    return receipt


def read_rows(chunks: Iterable[bytes], renderer: ChatRenderer, *, file: str = "Training file") -> Iterator[RenderedRow]:
    """Every row in order, those without a supervised token too. After the last one, raises DataError if any could not
    be read; RenderingError at once."""
    refusals = _Refusals()
    for number, line in _split_lines(chunks):
        try:
            yield renderer.render(parse_row(line, number))
        except RowError as error:
            refusals.add(error)
    if refusals.total:
        raise DataError(f"{file} has {refusals.describe()}", tuple(refusals.first), refusals.total)


class _Refusals:
    """The rows that cannot be read, in bounded memory; those with the same fault are told together."""

    def __init__(self) -> None:
        self.first: list[RowError] = []
        self.total = 0
        self._rows_by_fault: dict[str, list[int]] = {}
        self._count_by_fault: Counter[str] = Counter()

    def add(self, error: RowError) -> None:
        self.total += 1
        if len(self.first) < _MAX_LISTED_ERRORS:
            self.first.append(error)
        fault = error.fault
        if fault not in self._rows_by_fault and len(self._rows_by_fault) == _MAX_LISTED_ERRORS:
            return
        rows = self._rows_by_fault.setdefault(fault, [])
        self._count_by_fault[fault] += 1
        if len(rows) < _MAX_SUMMARY_ROWS:
            rows.append(error.row)

    def describe(self) -> str:
        listed = [
            f"{_list_rows(tuple(rows), self._count_by_fault[fault]).capitalize()}: {fault.rstrip('.')}."
            for fault, rows in self._rows_by_fault.items()
        ]
        total = "1 invalid row" if self.total == 1 else f"{self.total:,} invalid rows"
        unlisted = self.total - self._count_by_fault.total()
        return " ".join([f"{total}.", *listed, *([f"(and {unlisted:,} more)"] if unlisted else [])])


def _split_lines(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers, without the file's byte order mark. A line that is too long comes
    without its tail, to be refused."""
    number = 1
    pending = b""
    for chunk in chunks:
        if len(pending) > MAX_LINE_BYTES and b"\n" not in chunk:
            continue
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            if row := _without_mark(line, number):
                yield number, row
            number += 1
        pending = pending[: MAX_LINE_BYTES + 1]
    if row := _without_mark(pending, number):
        yield number, row


def _without_mark(line: bytes, number: int) -> bytes:
    return (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).rstrip()


def _little_endian(sequence: RenderedSequence) -> bytes:
    if sys.byteorder == "little":
        return sequence.input_ids.tobytes()
    swapped = sequence.input_ids[:]
    swapped.byteswap()
    return swapped.tobytes()


def _list_rows(numbers: tuple[int, ...], total: int) -> str:
    listed = ", ".join(map(str, numbers[:_MAX_SUMMARY_ROWS]))
    more = f" and {total - _MAX_SUMMARY_ROWS:,} more" if total > _MAX_SUMMARY_ROWS else ""
    return f"{'row' if total == 1 else 'rows'} {listed}{more}"
