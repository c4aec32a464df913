"""The database engine for SQLite (one machine) and PostgreSQL, and the schema brought up to date.

While a cluster is upgraded, processes of the version before work on the new schema, and for a moment those of the new
version may wait for it. So a migration only adds: what the version before reads and writes stays as it is, and a new
column is nullable or has a default in the database. What nothing uses any more is taken away by a later release than
the one that stopped using it. A process that finds a newer schema than its own goes on.
`docs/decisions/0010-rolling-upgrades.md` says why.
"""

import asyncio
import logging
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

Sessions = async_sessionmaker[AsyncSession]

_SQLITE_BUSY_MS = 30_000  # how long a writer waits for another one

_CONNECT_SECONDS = 10  # PostgreSQL's driver would wait for two minutes

# A thousand requests at once wait their turn. Connections over the size would be made and closed for each of them.
_POOL: dict[str, Any] = {"max_overflow": 0, "pool_timeout": 120}

_LOOK_SECONDS = 2.0
_TELL_SECONDS = 30.0

log = logging.getLogger(__name__)


class SchemaNotReady(Exception):
    """The database is not there, or its schema is older than this version needs; the message says what to do."""


@dataclass(frozen=True)
class Migration:
    """From one version of the schema to another; None: the database was empty."""

    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before == self.after:
            return f"the schema is at {self.after}; nothing to do"
        return f"the schema went from {self.before or 'nothing'} to {self.after}"


def create_engine(url: str, pool_size: int = 15, *, only_reads: bool = False) -> AsyncEngine:
    """What a statement carries stays out of its error, and so out of the log: it may be a secret.

    `only_reads`: on SQLite it takes no locks.
    """
    address = make_url(url)
    pool = _POOL | {"pool_size": pool_size}
    if address.get_backend_name() != "sqlite":
        arguments = {} if "connect_timeout" in address.query else {"connect_timeout": _CONNECT_SECONDS}
        return create_async_engine(url, pool_pre_ping=True, hide_parameters=True, connect_args=arguments, **pool)
    engine = create_async_engine(url, hide_parameters=True, connect_args={"factory": _SqliteConnection}, **pool)
    event.listen(engine.sync_engine, "connect", _configure_sqlite)
    if not only_reads:
        event.listen(engine.sync_engine, "begin", _begin_immediate)
    return engine


def create_sessions(engine: AsyncEngine) -> Sessions:
    return async_sessionmaker(engine, expire_on_commit=False)


async def migrate(engine: AsyncEngine) -> Migration:
    """Brings the schema up to date, or leaves a newer one alone. Safe to repeat; several at once wait in turn."""
    async with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # Alembic changes a table of SQLite by copying and dropping it, which breaks references to it for a moment;
            # and inside a transaction the pragma does nothing.
            await _set_foreign_keys(connection, "OFF")
        async with connection.begin():
            migration = await connection.run_sync(_upgrade)
        if engine.dialect.name == "sqlite":
            await _set_foreign_keys(connection, "ON")
    return migration


async def wait_until_migrated(engine: AsyncEngine, wait: timedelta) -> None:
    """Until somebody else has brought the schema up to date. Raises SchemaNotReady."""
    started, told = time.monotonic(), -_TELL_SECONDS
    while (reason := await _why_not_ready(engine)) is not None:
        waited = time.monotonic() - started
        if waited >= wait.total_seconds():
            raise SchemaNotReady(f"{reason}. Waited for {wait}. Run `fettle migrate` on it.")
        if waited - told >= _TELL_SECONDS:
            told = waited
            log.warning("waiting: %s; `fettle migrate` brings the schema up to date", reason)
        await asyncio.sleep(_LOOK_SECONDS)


async def _why_not_ready(engine: AsyncEngine) -> str | None:
    try:
        async with engine.connect() as connection:
            found = await connection.run_sync(_found_version)
    except (OperationalError, InterfaceError) as error:
        return f"the database does not answer ({str(error.orig).strip()})"
    scripts = ScriptDirectory.from_config(_config())
    if found == scripts.get_current_head() or _is_newer(found, scripts):
        return None
    return f"the schema is at {found or 'nothing'} and this version needs {scripts.get_current_head()}"


async def _set_foreign_keys(connection: AsyncConnection, value: str) -> None:
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    await driver.execute(f"PRAGMA foreign_keys = {value}")


def _upgrade(connection: Connection) -> Migration:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(4710022)")  # any number that is always the same
    config = _config()
    before = _found_version(connection)
    scripts = ScriptDirectory.from_config(config)
    if _is_newer(before, scripts):
        log.warning("the schema is at %s, of a newer version than this one: it is left as it is", before)
        return Migration(before, before)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    if connection.dialect.name == "sqlite" and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
        raise RuntimeError(f"the migration would leave rows that refer to nothing: {broken[:10]}")
    return Migration(before, scripts.get_current_head())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _found_version(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _is_newer(found: str | None, scripts: ScriptDirectory) -> bool:
    """Versions are four digits, one after the other."""
    head = scripts.get_current_head()
    return found is not None and head is not None and found > head


class _SqliteConnection(sqlite3.Connection):
    def close(self) -> None:
        # Who is cancelled in the middle of a result leaves a cursor with rows. As long as Python has that one, SQLite
        # keeps the closed connection in its transaction, and nobody else can write.
        with suppress(sqlite3.Error):  # closed already, or a disk that is gone
            self.rollback()
        super().close()


def _configure_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # pysqlite begins transactions late and not for reads; we say BEGIN ourselves
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # an answered request survives a power cut
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute(f"PRAGMA busy_timeout = {_SQLITE_BUSY_MS}")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    # A transaction that reads first and writes later fails at once when another one wrote in between; one that takes
    # the write lock at its start waits its turn. Ours are short.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
