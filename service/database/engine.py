"""The database engine for SQLite (one machine) and PostgreSQL, and the schema brought up to date."""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

Sessions = async_sessionmaker[AsyncSession]

_SQLITE_BUSY_MS = 30_000  # how long a writer waits for another one

# A thousand requests at once wait their turn. Connections over the size would be made and closed for each of them.
_POOL: dict[str, Any] = {"pool_size": 15, "max_overflow": 0, "pool_timeout": 120}


def create_engine(url: str) -> AsyncEngine:
    """What a statement carries stays out of its error, and so out of the log: it may be a secret."""
    if make_url(url).get_backend_name() != "sqlite":
        return create_async_engine(url, pool_pre_ping=True, hide_parameters=True, **_POOL)
    engine = create_async_engine(url, hide_parameters=True, **_POOL)
    event.listen(engine.sync_engine, "connect", _configure_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_immediate)
    return engine


def create_sessions(engine: AsyncEngine) -> Sessions:
    return async_sessionmaker(engine, expire_on_commit=False)


async def migrate(engine: AsyncEngine) -> None:
    """Brings the schema up to date. Safe to repeat; several at once wait for each other."""
    async with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # Alembic changes a table of SQLite by copying and dropping it, which breaks references to it for a moment;
            # and inside a transaction the pragma does nothing.
            await _set_foreign_keys(connection, "OFF")
        async with connection.begin():
            await connection.run_sync(_upgrade)
        if engine.dialect.name == "sqlite":
            await _set_foreign_keys(connection, "ON")


async def _set_foreign_keys(connection: AsyncConnection, value: str) -> None:
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    await driver.execute(f"PRAGMA foreign_keys = {value}")


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(4710022)")  # any number that is always the same
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    if connection.dialect.name == "sqlite" and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
        raise RuntimeError(f"the migration would leave rows that refer to nothing: {broken[:10]}")


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
