"""The options of `fettle demo`."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    model: Annotated[
        str | None, typer.Option(help="A catalogue name, a Hugging Face id or a folder.  [default: fettle-tiny]")
    ] = None,
    train: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Your own rows.  [default: examples/tool_calls]")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Rows that are measured on, never trained on.")
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Rows to ask.  [default: the validation rows]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rows and questions, for CI.")] = False,
    report: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("demo-report.json"),
) -> None:
    """Start a service, upload, fine-tune, and ask before and after."""
    from service.cli.demo.run import DemoError, Plan, run

    try:
        ok = run(Plan.from_options(model, train, validation, held_out, quick), report)
    except DemoError as error:
        typer.echo(f"fettle demo: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo("fettle demo: interrupted; the service is stopped.", err=True)
        raise typer.Exit(130) from None
    if not ok:
        raise typer.Exit(1)
