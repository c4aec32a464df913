"""Reads a training file and says what will be trained on. The service makes the receipt, the trainer makes it again.

    rows: list[RenderedRow] = []
    receipt = make_receipt(chunks, renderer, on_row=rows.append)

Memory grows by 16 bytes a row (`row_digests`), else only with what `on_row` keeps.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from tuning.contract import MethodName
from tuning.data.blocks import BlockRenderer, RenderedBlock
from tuning.data.data_receipt import DataReceipt
from tuning.data.findings import MAX_LISTED_ROWS, MAX_TOLD_ROWS, list_rows
from tuning.data.formats import RowError
from tuning.data.lines import split_blocks
from tuning.data.receipt_builder import ReceiptBuilder
from tuning.data.rendering import ChatRenderer, RenderedRow
from tuning.data.row_digests import RowDigests
from tuning.data.row_processes import render_blocks

__all__ = [
    "MAX_LISTED_ROWS",
    "MIN_ROWS",
    "DataError",
    "DataReceipt",
    "TooFewRowsError",
    "check_rows",
    "make_receipt",
    "read_rows",
]

MIN_ROWS = 10
"""OpenAI's."""

_MAX_LISTED_ERRORS = 20


class DataError(Exception):
    """A file cannot be trained on; the message is the user's. `errors` are the first of `total_errors`."""

    def __init__(self, message: str, errors: tuple[RowError, ...] = (), total_errors: int = 0) -> None:
        super().__init__(message)
        self.errors = errors
        self.total_errors = total_errors


class TooFewRowsError(DataError):
    pass


def make_receipt(
    chunks: Iterable[bytes],
    renderer: ChatRenderer,
    on_row: Callable[[RenderedRow], None] | None = None,
    *,
    file: str = "Training file",
    min_rows: int = MIN_ROWS,
    method: MethodName = "supervised",
) -> DataReceipt:
    """`on_row` gets each trained row, in order; `file` is what messages call the file.

    Raises DataError, with the first errors of the whole file; RenderingError.
    """
    return check_rows(chunks, renderer, on_row, file=file, min_rows=min_rows, method=method)[0]


def check_rows(
    chunks: Iterable[bytes],
    renderer: ChatRenderer,
    on_row: Callable[[RenderedRow], None] | None = None,
    *,
    file: str = "Training file",
    min_rows: int = MIN_ROWS,
    method: MethodName = "supervised",
) -> tuple[DataReceipt, RowDigests]:
    """As `make_receipt`; the digests tell which rows another file has too."""
    builder = ReceiptBuilder(renderer, method)
    refusals = _Refusals()
    for block in _render(chunks, renderer, method, keeps_rows=on_row is not None):
        refusals.add(block.errors)
        builder.add(block.facts)
        for row in block.rows:
            if on_row is not None and row.dropped_because is None:
                on_row(row)
    refusals.check(file)
    receipt = builder.finish(file)
    if not receipt.rows:
        raise TooFewRowsError(f"{file} is empty: it must have at least {min_rows} examples, one JSON object a line")
    if receipt.rows < min_rows:
        raise TooFewRowsError(f"{file} has {receipt.rows} example(s), but must have at least {min_rows} examples")
    if not receipt.trained_rows:
        raise DataError(
            f"{file} has no row to train on: {_why_dropped(receipt)}, the most that is read of a row; shorten the "
            "rows, or choose a larger max_length or a base model with a longer context"
        )
    if errors := [finding for finding in receipt.findings if finding.level == "error"]:
        raise DataError(" ".join(finding.message for finding in errors), total_errors=errors[0].total_rows)
    return receipt, builder.digests


def read_rows(
    chunks: Iterable[bytes],
    renderer: ChatRenderer,
    *,
    file: str = "Training file",
    method: MethodName = "supervised",
) -> Iterator[RenderedRow]:
    """Every row in order, those that are not trained on too. After the last one, raises DataError if any could not be
    read; RenderingError at once."""
    refusals = _Refusals()
    for block in _render(chunks, renderer, method, keeps_rows=True):
        refusals.add(block.errors)
        yield from block.rows
    refusals.check(file)


def _render(
    chunks: Iterable[bytes], renderer: ChatRenderer, method: MethodName, *, keeps_rows: bool
) -> Iterator[RenderedBlock]:
    return render_blocks(split_blocks(chunks), BlockRenderer(renderer, method, keeps_rows))


def _why_dropped(receipt: DataReceipt) -> str:
    reasons = [finding.reason for finding in receipt.findings if finding.code == "dropped_rows" and finding.reason]
    return f"in each, {', or '.join(reasons)}"


class _Refusals:
    """The rows that cannot be read, in bounded memory; those with the same fault are told together."""

    def __init__(self) -> None:
        self._first: list[RowError] = []
        self._total = 0
        self._rows_by_fault: dict[str, list[int]] = {}
        self._count_by_fault: Counter[str] = Counter()

    def add(self, errors: Iterable[RowError]) -> None:
        for error in errors:
            self._total += 1
            if len(self._first) < _MAX_LISTED_ERRORS:
                self._first.append(error)
            fault = error.fault
            if fault not in self._rows_by_fault and len(self._rows_by_fault) == _MAX_LISTED_ERRORS:
                continue
            rows = self._rows_by_fault.setdefault(fault, [])
            self._count_by_fault[fault] += 1
            if len(rows) < MAX_TOLD_ROWS:
                rows.append(error.row)

    def check(self, file: str) -> None:
        """Raises DataError if there are any."""
        if self._total:
            raise DataError(f"{file} has {self._describe()}", tuple(self._first), self._total)

    def _describe(self) -> str:
        listed = [
            f"{list_rows(rows, self._count_by_fault[fault]).capitalize()}: {fault.rstrip('.')}."
            for fault, rows in self._rows_by_fault.items()
        ]
        total = "1 invalid row" if self._total == 1 else f"{self._total:,} invalid rows"
        unlisted = self._total - self._count_by_fault.total()
        return " ".join([f"{total}.", *listed, *([f"(and {unlisted:,} more)"] if unlisted else [])])
