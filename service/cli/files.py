"""`fettle files …`."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import DEFAULT_BASE_URL, NO_API_KEY, ApiKey, BaseUrl, Limit

app = typer.Typer(help="Training data and results.", no_args_is_help=True)


@app.command("upload")
def upload(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A JSONL file.")],
    base_url: BaseUrl = DEFAULT_BASE_URL,
    api_key: ApiKey = NO_API_KEY,
) -> None:
    """Upload a file for fine-tuning and print its id."""
    from service.cli.client import connect
    from service.cli.stages import Stages
    from service.cli.uploading import upload_file

    with connect(base_url, api_key) as client, Stages() as stages:
        file = upload_file(client, path, stages.start(f"Uploading {path.name}", path.stat().st_size))
    print(file.id)


@app.command("list")
def list_files(limit: Limit = 20, base_url: BaseUrl = DEFAULT_BASE_URL, api_key: ApiKey = NO_API_KEY) -> None:
    """List files, newest first."""
    from service.cli.client import connect
    from service.cli.tables import print_rows, time_text

    with connect(base_url, api_key) as client:
        files = client.files.list(limit=limit).data
    print_rows(
        ("id", "bytes", "created", "purpose", "name"),
        [(file.id, f"{file.bytes:,}", time_text(file.created_at), file.purpose, file.filename) for file in files],
    )
