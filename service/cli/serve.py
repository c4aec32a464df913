"""`fettle serve` and `fettle openapi`."""

import logging
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

REFUSED = 2
"""Exit code: these settings cannot be served. 1 is for a service that started and failed."""

STOP_WAIT_SECONDS = 10
"""How long open requests may go on after SIGTERM."""


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one.  [default: 8000]")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where all state lies.  [default: ./fettle-data]")] = None,
    models: Annotated[Path | None, typer.Option(help="The catalogue of base models.  [default: models.yaml]")] = None,
) -> None:
    """Run the service. Every other setting is a `FETTLE_*` variable."""
    import uvicorn
    from pydantic import ValidationError

    from service.app import create_app
    from service.data_dir import DataDirInUse, lock_data_dir
    from service.http_protocol import HttpProtocol
    from service.response_headers import RequestIds
    from service.settings import Settings, unknown_variables
    from tuning.catalogue import CatalogueError

    options = {"host": host, "port": port, "data_dir": data_dir, "models_file": models}
    try:
        settings = Settings.model_validate({key: value for key, value in options.items() if value is not None})
    except ValidationError as error:
        for problem in error.errors():
            typer.echo(f"fettle: setting {'.'.join(map(str, problem['loc']))}: {problem['msg']}", err=True)
        raise typer.Exit(REFUSED) from error
    if unknown := unknown_variables():
        typer.echo(f"fettle: no such setting: {', '.join(unknown)}. service/settings.py has them all.", err=True)
        raise typer.Exit(REFUSED)
    if refusal := settings.refusal_to_serve():
        typer.echo(f"fettle: {refusal}", err=True)
        raise typer.Exit(REFUSED)
    try:
        app = create_app(settings)
        lock_data_dir(settings.data_dir).close()  # a clear word now; the service itself takes the lock when it starts
    except (CatalogueError, DataDirInUse) as error:
        typer.echo(f"fettle: {error}", err=True)
        raise typer.Exit(REFUSED) from error
    listener = _listen(settings.host, settings.port)
    url = f"http://{_for_url(settings.host)}:{listener.getsockname()[1]}/v1"
    embedded = not (settings.database_url or settings.storage_uri)
    print(f"Fettle answers at {url}; its data is in {settings.data_dir}.")
    if embedded:
        print("Embedded defaults, for one machine: SQLite, a folder, local processes.", flush=True)
    logs = logging.StreamHandler()
    logs.addFilter(RequestIds())
    line = "%(asctime)s %(levelname)s %(name)s [%(request_id)s]: %(message)s"
    logging.basicConfig(level=logging.WARNING, format=line, handlers=[logs])
    logging.getLogger("service").setLevel(logging.INFO)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=HttpProtocol,
            ws="none",
            log_level="info",
            timeout_graceful_shutdown=STOP_WAIT_SECONDS,
            access_log=False,
        )
    )
    server.run(sockets=[listener])
    if not server.started:
        raise typer.Exit(1)


def openapi() -> None:
    """Print the API's description as YAML."""
    from service.app import create_app
    from service.openapi import render
    from service.settings import Settings

    sys.stdout.write(render(create_app(Settings())))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        typer.echo(f"fettle: cannot listen on {host}:{port}: {error.strerror}. Choose another with --port.", err=True)
        raise typer.Exit(REFUSED) from error


def _for_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
