"""The receipt itself: what is trained on, in numbers, samples and findings. `receipt` makes it."""

from collections import Counter
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tuning.contract import MethodName
from tuning.data.findings import Finding, list_rows
from tuning.data.samples import Sample


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Percentiles(_Part):
    """Each is the number of one of the rows."""

    min: int
    p50: int
    p90: int
    p99: int
    max: int

    @classmethod
    def of(cls, counts: Counter[int]) -> "Percentiles | None":
        """`counts`: how often each number occurs. None: there is none."""
        if not counts:
            return None
        numbers = sorted(counts)
        total = counts.total()
        found: list[int] = []
        passed = 0
        wanted = [-(-total * percent // 100) for percent in (50, 90, 99)]  # rounded up
        for number in numbers:
            passed += counts[number]
            while len(found) < len(wanted) and passed >= wanted[len(found)]:
                found.append(number)
        p50, p90, p99 = found
        return cls(min=numbers[0], p50=p50, p90=p90, p99=p99, max=numbers[-1])


class ToolUse(_Part):
    name: str
    rows: int = Field(description="That offer it.")
    calls: int


class PreferenceCounts(_Part):
    preferred_tokens: Percentiles = Field(description="Supervised tokens of the answers that are wanted.")
    non_preferred_tokens: Percentiles


class LabelCounts(_Part):
    wanted: int
    unwanted: int


class DataReceipt(BaseModel):
    # Receipts lie in the database: the next release may have written more into one than is known here.
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    version: Literal[1, 2] = 1
    """1 is what release 0.1 made: it has nothing of what can be missing here."""
    method: MethodName = "supervised"
    rows: int
    """Rows in the file; blank lines are none, but count in row numbers, which are line numbers from 1."""
    trained_rows: int
    """Rows that are not dropped."""
    tokens: int
    """Of the trained rows, as are the counts below."""
    supervised_tokens: int
    longest_row_tokens: int
    cut_rows: tuple[int, ...]
    """Numbers of the first 1000 rows that lost their tail and are still trained on."""
    total_cut_rows: int
    dropped_rows: tuple[int, ...]
    """Numbers of the first 1000 rows that are not trained on: the findings tell why."""
    total_dropped_rows: int
    template_sha256: str
    max_length: int
    sha256: str
    """Over the ids and masks of the trained rows, in order: what the trainer must reproduce."""

    row_tokens: Percentiles | None = None
    """Of a preference the longer of its two conversations counts."""
    row_supervised_tokens: Percentiles | None = None
    total_duplicate_rows: int = 0
    supervised_turns: int = 0
    """Answers that are trained on, or a part of them."""
    stopped_turns: int = 0
    """Those that end with a stop token that is trained on; the others are cut."""
    roles: dict[str, int] = {}
    """Messages by role."""
    tools: tuple[ToolUse, ...] = ()
    """Those that most rows offer or call."""
    unlisted_tools: int = 0
    preferences: PreferenceCounts | None = None
    labels: LabelCounts | None = None
    item_keys: dict[str, int] | None = None
    """Of reinforcement: what a grader finds in `item`, and in how many rows."""
    samples: tuple[Sample, ...] = ()
    findings: tuple[Finding, ...] = ()

    def summary(self) -> str:
        """One line for people."""
        text = f"{self.trained_rows:,} of {self.rows:,} rows to train on: {self.tokens:,} tokens"
        if self.supervised_tokens:
            text += f", {self.supervised_tokens:,} of them in the assistant's turns"
        text += f"; the longest row has {self.longest_row_tokens:,}"
        if self.total_cut_rows:
            text += f"; cut at {self.max_length:,} tokens: {list_rows(self.cut_rows, self.total_cut_rows)}"
        if self.total_dropped_rows:
            text += f"; left out: {list_rows(self.dropped_rows, self.total_dropped_rows)}"
        return text
