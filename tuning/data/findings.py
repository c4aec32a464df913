"""What a receipt has to say about rows: each finding names them."""

from collections.abc import Iterable
from heapq import nsmallest
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

MAX_LISTED_ROWS = 1000
"""Row numbers that a receipt lists; beyond, it only counts, so that it stays small."""

MAX_TOLD_ROWS = 20
"""Row numbers in a message."""

FindingCode = Literal[
    "truncated_rows",
    "dropped_rows",
    "duplicate_rows",
    "overlapping_rows",
    "validation_is_training",
    "empty_answers",
    "one_label",
]


class Finding(BaseModel):
    """An error keeps the job from running; a warning is told, and training goes on."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    code: FindingCode
    level: Literal["error", "warning"]
    message: str
    rows: tuple[int, ...] = ()
    """Line numbers in the file, from 1: of the first 1000."""
    total_rows: int
    other_rows: tuple[int, ...] = ()
    """For each of `rows` the row that it repeats: an earlier one, or of the training file where they overlap."""
    reason: str | None = None
    """Why rows are dropped."""


class ListedRows:
    """Row numbers that come in order: the first of them, and how many there are."""

    def __init__(self) -> None:
        self.first: list[int] = []
        self.total = 0

    def add(self, number: int) -> None:
        self.total += 1
        if len(self.first) < MAX_LISTED_ROWS:
            self.first.append(number)

    def extend(self, later: "ListedRows") -> None:
        self.first += later.first[: MAX_LISTED_ROWS - len(self.first)]
        self.total += later.total


class RowPairs:
    """Rows, each with the one that it repeats; in any order."""

    def __init__(self, pairs: list[tuple[int, int]], total: int) -> None:
        self.rows = tuple(row for row, _ in pairs)
        self.other_rows = tuple(other for _, other in pairs)
        self.total = total

    @classmethod
    def first_of(cls, pairs: Iterable[tuple[int, int]]) -> Self:
        """In bounded memory, however many there are."""
        total = 0

        def counted() -> Iterable[tuple[int, int]]:
            nonlocal total
            for pair in pairs:
                total += 1
                yield pair

        first = nsmallest(MAX_LISTED_ROWS, counted())
        return cls(first, total)

    def describe(self, verb: str) -> str:
        """`row 7 repeats row 2, row 9 repeats row 3 and 4 more`."""
        pairs = list(zip(self.rows, self.other_rows, strict=True))[:MAX_TOLD_ROWS]
        told = ", ".join(f"row {row} {verb} row {other}" for row, other in pairs)
        return told + (f" and {self.total - len(pairs):,} more" if self.total > len(pairs) else "")


def list_rows(numbers: Iterable[int], total: int) -> str:
    listed = ", ".join(map(str, list(numbers)[:MAX_TOLD_ROWS]))
    more = f" and {total - MAX_TOLD_ROWS:,} more" if total > MAX_TOLD_ROWS else ""
    return f"{'row' if total == 1 else 'rows'} {listed}{more}"
