"""`fettle models …`."""

import typer

from service.cli.options import DEFAULT_BASE_URL, NO_API_KEY, ApiKey, BaseUrl

app = typer.Typer(help="Base models and fine-tuned ones.", no_args_is_help=True)


@app.callback()
def models() -> None:
    """Keeps `list` a subcommand: typer folds a lone command into its parent."""


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
