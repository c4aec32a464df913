"""Puts the facts of all rows together to a receipt and its findings."""

import hashlib
from collections.abc import Iterator
from itertools import islice

from tuning.contract import MethodName
from tuning.data.data_receipt import DataReceipt, LabelCounts, Percentiles, PreferenceCounts, ToolUse
from tuning.data.findings import Finding, RowPairs, list_rows
from tuning.data.rendering import ChatRenderer
from tuning.data.row_digests import RowDigests
from tuning.data.row_facts import RowFacts

_MAX_LISTED_NAMES = 100
"""Of tools and of items' keys."""


class ReceiptBuilder:
    def __init__(self, renderer: ChatRenderer, method: MethodName) -> None:
        self._renderer = renderer
        self._method = method
        self._digest = hashlib.sha256()
        self._facts = RowFacts()
        self.digests = RowDigests()

    def add(self, facts: RowFacts) -> None:
        """In the file's order."""
        self._digest.update(facts.content)
        self.digests.extend(facts.numbers, facts.digests)
        facts.content.clear()
        facts.numbers, facts.digests = facts.numbers[:0], facts.digests[:0]
        self._facts.extend(facts)

    def finish(self, file: str) -> DataReceipt:
        """`file` is what messages call it."""
        facts = self._facts
        row_tokens = Percentiles.of(facts.lengths)
        duplicates = self.digests.repeated()
        tools = _list_tools(facts)
        return DataReceipt(
            version=2,
            method=self._method,
            rows=facts.rows,
            trained_rows=facts.lengths.total(),
            tokens=facts.tokens,
            supervised_tokens=facts.supervised_tokens,
            longest_row_tokens=row_tokens.max if row_tokens else 0,
            cut_rows=tuple(facts.cut.first),
            total_cut_rows=facts.cut.total,
            dropped_rows=tuple(facts.all_dropped.first),
            total_dropped_rows=facts.all_dropped.total,
            template_sha256=self._renderer.template_sha256,
            max_length=self._renderer.max_length,
            sha256=self._digest.hexdigest(),
            row_tokens=row_tokens,
            row_supervised_tokens=Percentiles.of(facts.supervised),
            total_duplicate_rows=duplicates.total,
            supervised_turns=facts.turns,
            stopped_turns=facts.stopped_turns,
            roles=dict(facts.roles),
            tools=tuple(tools[:_MAX_LISTED_NAMES]),
            unlisted_tools=max(0, len(tools) - _MAX_LISTED_NAMES),
            preferences=_count_preferences(facts),
            labels=LabelCounts(wanted=facts.labels[True], unwanted=facts.labels[False]) if facts.labels else None,
            item_keys=dict(islice(sorted(facts.item_keys.items()), _MAX_LISTED_NAMES))
            if self._method == "reinforcement"
            else None,
            samples=facts.samples.show(row_tokens.p50 if row_tokens else 0, self._renderer.decode),
            findings=tuple(self._findings(file, duplicates)),
        )

    def _findings(self, file: str, duplicates: RowPairs) -> Iterator[Finding]:
        facts, max_length = self._facts, self._renderer.max_length
        if facts.empty.total:
            where = list_rows(facts.empty.first, facts.empty.total)
            yield Finding(
                code="empty_answers",
                level="error",
                message=f"{file} has nothing to learn from in {where}: every answer that is trained on is empty; "
                "write the answers, or remove the rows.",
                rows=tuple(facts.empty.first),
                total_rows=facts.empty.total,
            )
        if facts.labels and len(facts.labels) == 1:
            [label] = facts.labels
            yield Finding(
                code="one_label",
                level="warning",
                message=f"{file} has the label {str(label).lower()} in every row; KTO learns from wanted and from "
                "unwanted answers: add some of the others.",
                total_rows=facts.labels.total(),
            )
        if facts.cut.total:
            where = list_rows(facts.cut.first, facts.cut.total)
            yield Finding(
                code="truncated_rows",
                level="warning",
                message=f"{file}: cut at {max_length:,} tokens, what follows is not trained on: {where}.",
                rows=tuple(facts.cut.first),
                total_rows=facts.cut.total,
            )
        for reason, rows in facts.dropped.items():
            yield Finding(
                code="dropped_rows",
                level="warning",
                message=f"{file}: left out, because {reason}: {list_rows(rows.first, rows.total)}.",
                rows=tuple(rows.first),
                total_rows=rows.total,
                reason=reason,
            )
        if duplicates.total:
            yield Finding(
                code="duplicate_rows",
                level="warning",
                message=f"{file} has rows more than once: {duplicates.describe('repeats')}.",
                rows=duplicates.rows,
                total_rows=duplicates.total,
                other_rows=duplicates.other_rows,
            )


def _list_tools(facts: RowFacts) -> list[ToolUse]:
    """Those that are used most come first."""
    tools = [
        ToolUse(name=name, rows=facts.offered_tools[name], calls=facts.called_tools[name])
        for name in facts.offered_tools.keys() | facts.called_tools.keys()
    ]
    return sorted(tools, key=lambda tool: (-tool.rows, -tool.calls, tool.name))


def _count_preferences(facts: RowFacts) -> PreferenceCounts | None:
    preferred, non_preferred = map(Percentiles.of, facts.answers)
    if preferred is None or non_preferred is None:
        return None
    return PreferenceCounts(preferred_tokens=preferred, non_preferred_tokens=non_preferred)
