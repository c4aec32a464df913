"""`fettle migrate`."""

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.serve import read_settings, refuse

if TYPE_CHECKING:
    from service.settings import Settings

FAILED = 1
"""Exit code; 2 is for settings that cannot be used."""

log = logging.getLogger("service.cli.migrate")


def migrate(
    data_dir: Annotated[Path | None, typer.Option(help="Where all state lies.  [default: ./fettle-data]")] = None,
) -> None:
    """Bring the database's schema up to date. Safe to repeat, and with several at once.

    A service does so itself when it starts, unless it runs with `FETTLE_MIGRATIONS=checked`.
    """
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    from service.data_dir import DataDirInUse, lock_data_dir
    from service.operations.logs import configure_logs

    settings = read_settings({"data_dir": data_dir})
    configure_logs(settings.log_format)
    try:
        if settings.database_url is None:
            with lock_data_dir(settings.data_dir):  # SQLite: no service works on it meanwhile
                done = asyncio.run(_migrate(settings))
        else:
            done = asyncio.run(_migrate(settings))
    except DataDirInUse as error:
        refuse(str(error))
    except ArgumentError as error:
        refuse(f"setting database_url: {error}")
    except (SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).strip()
        if settings.log_format == "json":
            log.error("the database could not be migrated: %s", reason)
        else:
            typer.echo(f"fettle: the database could not be migrated: {reason}", err=True)
        raise typer.Exit(FAILED) from error
    if settings.log_format == "json":
        log.info("%s", done)
    else:
        typer.echo(f"fettle: {done}")


async def _migrate(settings: "Settings") -> str:
    from service.database.engine import create_engine, migrate

    engine = create_engine(settings.resolved_database_url, 1)
    try:
        return str(await migrate(engine))
    finally:
        await engine.dispose()
