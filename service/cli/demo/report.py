"""What the demo found, for people as a table and for machines as JSON."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.cli.demo.questions import Answer, Question

SAMPLE_ROWS = 12
PIPE_WIDTH = 160
"""Columns of the table where there is no terminal to ask."""

CELL_CHARACTERS = 160
"""Of an answer: a model that does not know when to stop fills a screen."""

MAX_BEFORE = 0.10
MIN_AFTER = 0.80


@dataclass
class Report:
    model: str
    fine_tuned_model: str = ""
    job_id: str = ""
    held_out_rows: int = 0
    held_out_are_validation_rows: bool = False
    exact_match_before: float = 0.0
    exact_match_after: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    """start_service, serving, questions_before, upload, validation, training_start, training, questions_after, total"""
    time_to_first_token: float = 0.0
    """Seconds from the job's success, as a client saw it, to the new model's first token."""

    def write(self, path: Path) -> None:
        rounded = asdict(self) | {"seconds": {name: round(value, 2) for name, value in self.seconds.items()}}
        rounded["time_to_first_token"] = round(self.time_to_first_token, 3)
        path.write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")

    def shortfall(self) -> str | None:
        """What of the shipped example's promise was not kept, in a sentence."""
        if self.exact_match_before > MAX_BEFORE:
            return f"The base model was right before training ({self.exact_match_before:.0%}): this proves no learning."
        if self.exact_match_after < MIN_AFTER:
            return f"The fine-tuned model is right {self.exact_match_after:.0%} of the time, not {MIN_AFTER:.0%}."
        return None


def print_answers(questions: list[Question], before: list[Answer], after: list[Answer]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    table = Table(title="Held-out questions", title_justify="left", show_lines=True)
    for column in ("question", "expected", "before", "after"):
        table.add_column(column, overflow="fold", ratio=1)
    rows = list(zip(questions, before, after, strict=True))
    for question, early, late in rows[:: max(1, len(rows) // SAMPLE_ROWS)][:SAMPLE_ROWS]:
        expected = question.expected
        table.add_row(_cell(question.text), _cell(str(expected)), _judged(early, expected), _judged(late, expected))
    console.print(table)


def print_summary(report: Report) -> None:
    console = Console(highlight=False)
    source = " (the validation rows: measured on, never trained on)" if report.held_out_are_validation_rows else ""
    console.print(
        f"Exact matches over {report.held_out_rows} held-out questions{source}: "
        f"[bold]{report.exact_match_before:.0%}[/] before, [bold]{report.exact_match_after:.0%}[/] after.",
        soft_wrap=True,
    )
    stages = ", ".join(f"{name.replace('_', ' ')} {seconds:.1f}" for name, seconds in report.seconds.items())
    console.print(f"Seconds: {stages}; first token of the new model {report.time_to_first_token:.2f}.", soft_wrap=True)


def _judged(answer: Answer, expected: Answer) -> Text:
    return _cell(str(answer) or "(nothing)", style="green" if answer == expected else "red")


def _cell(content: str, style: str = "") -> Text:
    shown = content if len(content) <= CELL_CHARACTERS else f"{content[:CELL_CHARACTERS]}…"
    return Text(shown, style=style)
