"""Lists as a table on a terminal, as tab-separated lines in a pipe."""

from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table


def print_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    console = Console()
    if not console.is_terminal:
        for row in rows:
            print("\t".join(row))
        return
    table = Table(box=None, header_style="bold")
    for column in header:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def time_text(unix_seconds: int | None) -> str:
    """None: empty."""
    if unix_seconds is None:
        return ""
    return datetime.fromtimestamp(unix_seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
