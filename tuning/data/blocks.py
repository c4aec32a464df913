"""Lines checked and rendered by the block: the piece of work that `receipt` does itself or gives to `row_processes`."""

from dataclasses import dataclass

from tuning.contract import MethodName
from tuning.data.formats import RowError, parse_row
from tuning.data.lines import Block, split_lines
from tuning.data.rendering import ChatRenderer, RenderedRow
from tuning.data.row_facts import RowFacts


@dataclass(frozen=True, slots=True)
class RenderedBlock:
    rows: list[RenderedRow]
    """All that could be read, dropped ones too; none unless they are asked for."""
    errors: list[RowError]
    facts: RowFacts


@dataclass(frozen=True, slots=True)
class BlockRenderer:
    """Not for several threads at once. What it answers depends on nothing but the block."""

    renderer: ChatRenderer
    method: MethodName
    keeps_rows: bool

    def render(self, block: Block) -> RenderedBlock:
        """Raises RenderingError."""
        rendered = RenderedBlock([], [], RowFacts())
        for number, line in split_lines(block):
            try:
                parsed = parse_row(line, number, self.method)
                row = self.renderer.render(parsed)
            except RowError as error:
                rendered.errors.append(error)
                continue
            rendered.facts.add(parsed, row, self.renderer.stop_ids)
            if self.keeps_rows:
                rendered.rows.append(row)
        return rendered
