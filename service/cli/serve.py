"""`fettle serve` and `fettle openapi`."""

import logging
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from service.settings import Settings

REFUSED = 2
"""Exit code: these settings cannot be served. Others are for a service that started and failed."""

log = logging.getLogger("service.cli.serve")


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one.  [default: 8000]")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where all state lies.  [default: ./fettle-data]")] = None,
    models: Annotated[Path | None, typer.Option(help="The catalogue of base models.  [default: models.yaml]")] = None,
) -> None:
    """Run the service. Every other setting is a `FETTLE_*` variable."""
    from service.app import create_app
    from service.data_dir import DataDirInUse, lock_data_dir
    from service.executors.kubernetes_settings import KubernetesSettingsError
    from service.operations.logs import configure_logs
    from service.operations.server import run
    from tuning.catalogue import CatalogueError

    settings = read_settings({"host": host, "port": port, "data_dir": data_dir, "models_file": models})
    if refusal := settings.refusal_to_serve():
        refuse(refusal)
    if settings.role == "dispatcher" and (host is not None or port is not None):
        refuse("--host and --port are the API's, which FETTLE_ROLE=dispatcher does not answer. Leave them out.")
    try:
        app = create_app(settings)
        lock_data_dir(settings.data_dir).close()  # a clear word now; the service itself takes the lock when it starts
    except (CatalogueError, KubernetesSettingsError, DataDirInUse) as error:
        refuse(str(error))
    listener = None if settings.role == "dispatcher" else _listen(settings.host, settings.port)
    ops_listener = None if settings.ops_port is None else _listen_for_operations(settings.ops_port)
    tracing = app.state.telemetry.tracing
    configure_logs(settings.log_format, None if tracing is None else tracing.trace_id)
    _introduce(settings, listener, ops_listener)
    run(app, settings, listener, ops_listener)


def read_settings(options: "dict[str, object]") -> "Settings":
    """The options that are not None, and `FETTLE_*`; ends the command with what is wrong with them."""
    from pydantic import ValidationError

    from service.settings import Settings, unknown_variables

    try:
        settings = Settings.model_validate({key: value for key, value in options.items() if value is not None})
    except ValidationError as error:
        for problem in error.errors():
            typer.echo(f"fettle: setting {'.'.join(map(str, problem['loc']))}: {problem['msg']}", err=True)
        raise typer.Exit(REFUSED) from error
    if unknown := unknown_variables():
        refuse(f"no such setting: {', '.join(unknown)}. service/settings.py has them all.")
    return settings


def refuse(reason: str) -> NoReturn:
    typer.echo(f"fettle: {reason}", err=True)
    raise typer.Exit(REFUSED)


def openapi() -> None:
    """Print the API's description as YAML."""
    from service.app import create_app
    from service.openapi import render
    from service.settings import Settings

    sys.stdout.write(render(create_app(Settings())))


def _introduce(settings: "Settings", listener: socket.socket | None, ops_listener: socket.socket | None) -> None:
    tell = log.info if settings.log_format == "json" else lambda line: print(line, flush=True)
    if listener is not None:
        url = f"http://{_for_url(settings.host)}:{listener.getsockname()[1]}/v1"
        tell(f"Fettle answers at {url}; its data is in {settings.data_dir}.")
    else:
        tell(f"Fettle works on jobs, and answers no API; its data is in {settings.data_dir}.")
        if meaningless := sorted({"host", "port"} & settings.model_fields_set):
            names = " and ".join(f"FETTLE_{name.upper()}" for name in meaningless)
            tell(f"{names} mean nothing here: they are the API's, and this is the dispatcher.")
    if ops_listener is not None:
        tell(f"/livez, /readyz and /metrics are on port {ops_listener.getsockname()[1]}.")
    if not (settings.database_url or settings.storage_uri):
        tell("Embedded defaults, for one machine: SQLite, a folder, local processes.")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        typer.echo(f"fettle: cannot listen on {host}:{port}: {error.strerror}. Choose another with --port.", err=True)
        raise typer.Exit(REFUSED) from error


def _listen_for_operations(port: int) -> socket.socket:
    """On every address: a kubelet and Prometheus are on other machines."""
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        typer.echo(f"fettle: cannot listen on port {port}: {error.strerror}. Choose another FETTLE_OPS_PORT.", err=True)
        raise typer.Exit(REFUSED) from error


def _for_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
