"""`fettle models …`."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import DEFAULT_BASE_URL, NO_API_KEY, ApiKey, BaseUrl

if TYPE_CHECKING:
    from tuning.catalogue import Catalogue, CatalogueEntry

app = typer.Typer(help="Base models and fine-tuned ones.", no_args_is_help=True)


@app.command("list")
def list_models(base_url: BaseUrl = DEFAULT_BASE_URL, api_key: ApiKey = NO_API_KEY) -> None:
    """List the models that the service knows."""
    from service.cli.client import connect
    from service.cli.tables import print_rows, time_text

    with connect(base_url, api_key) as client:
        models = client.models.list().data
    print_rows(
        ("id", "created", "owner"),
        [(model.id, time_text(model.created), model.owned_by) for model in models],
    )


@app.command("fetch")
def fetch_models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Of the catalogue.  [default: all]")
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(envvar="FETTLE_MODELS_FILE", help="The catalogue of base models.  [default: models.yaml]"),
    ] = None,
) -> None:
    """Download base models of the Hugging Face hub to HF_HOME, once: for places that cannot reach the hub.

    Repeating it fetches what is missing and nothing else. Models in a folder of their own are checked to be there.
    """
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from service.cli.fetching import FetchFailed
    from tuning.catalogue import DEFAULT_CATALOGUE, Catalogue, CatalogueError

    try:
        entries = _choose(Catalogue.load(models or DEFAULT_CATALOGUE), names or [])
    except CatalogueError as error:
        typer.echo(f"fettle: {error}", err=True)
        raise typer.Exit(2) from error
    if not sys.stderr.isatty():
        disable_progress_bars()  # in a log they are thousands of lines
    failed = 0
    for entry in entries:
        try:
            _fetch_one(entry)
        except FetchFailed as error:
            failed += 1
            typer.echo(f"fettle: {entry.name}: {error}", err=True)
    if failed:
        raise typer.Exit(1)


def _choose(catalogue: "Catalogue", names: list[str]) -> list["CatalogueEntry"]:
    known = {entry.name: entry for entry in catalogue.models}
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"{', '.join(unknown)}: not in the catalogue, which has {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)] or list(known.values())


def _fetch_one(entry: "CatalogueEntry") -> None:
    """Raises FetchFailed."""
    from service.cli import fetching

    if entry.is_local:
        fetching.check_whole(entry, Path(entry.source))
        print(f"{entry.name}: {entry.source} is there", flush=True)
        return
    started = time.monotonic()
    plan = fetching.plan_fetch(entry)
    if plan is not None and plan.files:
        fetching.check_room(plan)
        size = fetching.in_bytes(plan.missing_bytes)
        print(f"{entry.name}: fetching {plan.files} files of {entry.source}, {size}", flush=True)
    fetching.fetch(entry)
    done = f"fetched in {time.monotonic() - started:.0f} s" if plan is not None and plan.files else "is there"
    print(f"{entry.name}: {done} ({fetching.cache_folder()})", flush=True)
