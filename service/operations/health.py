"""Whether this process can do its work now: `/livez` and `/readyz`.

All parts are asked at the same time and for a few seconds at most; what they said is kept for a moment, so that probes
cost nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from service.object_storage.base import ObjectStorage
from service.operations.shared_call import SharedCall

log = logging.getLogger(__name__)

Check = Callable[[], Awaitable[None]]
"""Raises when the part cannot be used."""

PATIENCE = timedelta(seconds=3)
KEPT = timedelta(seconds=1.5)

PROBE_KEY = "readiness-probe"

_FAILED = "cannot be used at the moment; the log says why"
_SILENT = f"did not answer within {PATIENCE.total_seconds():.0f} seconds"


@dataclass(frozen=True)
class Readiness:
    status: str
    """ready, not ready, starting or stopping."""
    parts: Mapping[str, str]
    """"ok", or what is wrong with it, in words that may be shown to anybody."""

    @property
    def is_ready(self) -> bool:
        return self.status == "ready"

    def as_json(self) -> dict[str, object]:
        return {"status": self.status, "parts": dict(self.parts)}


class Health:
    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        """Set when the process was told to end. From then on it is not ready, and its loops stop."""
        self.is_started = False
        self._parts: dict[str, SharedCall[None]] = {}
        self._failing: set[str] = set()

    def start(self, checks: Mapping[str, Check]) -> None:
        """Everything is wired; from now on it is ready when these checks pass."""
        self._parts = {name: SharedCall(check, KEPT, PATIENCE) for name, check in checks.items()}
        self.is_started = True

    def stop(self) -> None:
        """The parts are about to be closed."""
        self.stopping.set()
        for part in self._parts.values():
            part.cancel()

    async def readiness(self) -> Readiness:
        if self.stopping.is_set():
            return Readiness("stopping", {})
        if not self.is_started:
            return Readiness("starting", {})
        names = list(self._parts)
        words = await asyncio.gather(*(self._ask(name, part) for name, part in self._parts.items()))
        status = "not ready" if any(each != "ok" for each in words) else "ready"
        return Readiness("stopping" if self.stopping.is_set() else status, dict(zip(names, words, strict=True)))

    async def _ask(self, name: str, part: SharedCall[None]) -> str:
        try:
            await part.result()
        except TimeoutError:
            self._tell(name, _SILENT)
            return _SILENT
        except asyncio.CancelledError:
            if not self.stopping.is_set():
                raise  # whoever asked has gone
            return _FAILED
        except Exception as error:  # whatever a driver raises: the part cannot be used, and the process lives on
            self._tell(name, f"cannot be used: {_in_one_line(error)}")
            return _FAILED
        if name in self._failing:
            self._failing.discard(name)
            log.info("%s answers again", name)
        return "ok"

    def _tell(self, name: str, words: str) -> None:
        """Once for each failure, not once for each probe."""
        if name not in self._failing:
            self._failing.add(name)
            log.warning("not ready: %s %s", name, words)


def database_check(engine: AsyncEngine) -> Check:
    """On the driver's own connection: on SQLite a transaction would wait for whoever writes."""

    async def look() -> None:
        async with engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            cursor = await driver.execute("SELECT 1")
            await cursor.close()

    return look


def storage_check(storage: ObjectStorage) -> Check:
    """Looks at one object, and makes it where it is missing: a folder or bucket that is gone takes none."""

    async def look() -> None:
        if await storage.head(PROBE_KEY) is None:
            await storage.put_bytes(
                PROBE_KEY, b"Each service looks at this object to see whether the storage answers.\n"
            )

    return look


def _in_one_line(error: Exception) -> str:
    text = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    return " ".join(text.split())[:500]
