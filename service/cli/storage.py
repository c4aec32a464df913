"""`fettle storage …`."""

import asyncio
from typing import TYPE_CHECKING

import typer

from service.cli.serve import read_settings, refuse

if TYPE_CHECKING:
    from service.settings import Settings

app = typer.Typer(help="The object storage of the service that these settings are for.", no_args_is_help=True)

FAILED = 1
"""Exit code; 2 is for settings that cannot be used."""


@app.callback()
def storage() -> None:
    """Keeps `check` a subcommand: typer folds a lone command into its parent."""


@app.command("check")
def check() -> None:
    """Try everything that the service does with its storage, and say in plain words what does not work.

    It reads the same `FETTLE_*` and AWS_* variables as `fettle serve`, works under `checks/` and removes what it made.
    """
    settings = read_settings({})
    print(f"Checking {_where(settings)}", flush=True)
    if not asyncio.run(_check(settings)):
        raise typer.Exit(FAILED)


async def _check(settings: "Settings") -> bool:
    """Whether all is well."""
    from service.object_storage import open_storage
    from service.object_storage.base import StorageError
    from service.object_storage.checks import run_checks

    try:
        storage = open_storage(settings.resolved_storage_uri, **settings.s3_access)
    except (ValueError, StorageError) as error:
        refuse(f"setting storage_uri: {error}")
    failures = 0
    async for check in run_checks(storage):
        if check.failure is None:
            print(f"ok      {check.name}", flush=True)
        else:
            failures += 1
            print(f"FAILED  {check.name}: {check.failure}", flush=True)
    print("The storage can be used." if not failures else f"The storage cannot be used: {failures} checks failed.")
    return not failures


def _where(settings: "Settings") -> str:
    if not settings.resolved_storage_uri.startswith("s3://"):
        return settings.resolved_storage_uri
    server = settings.s3_endpoint_url or "the endpoint that boto3 knows"
    return f"{settings.resolved_storage_uri} at {server}"
