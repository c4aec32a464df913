"""What the gateway asks of the place where base models are served: processes of this machine, or somebody else's vLLMs.

One engine answers for one base model and for the adapters that were trained on it.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import httpx

from service.errors import InvalidRequest
from tuning.catalogue import CatalogueEntry

CLIENT_TIMEOUT = httpx.Timeout(
    600, connect=5, pool=None
)  # a long answer that is not streamed says nothing until its end
HEALTH_TIMEOUT_SECONDS = 30  # a busy vLLM on few cores answers late; one that is told dead is killed


@dataclass(frozen=True)
class Engine:
    """A vLLM that answers: where, and to which key."""

    url: str
    """Without a slash at its end."""
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}", "accept-encoding": "identity"}

    def __repr__(self) -> str:
        return f"Engine({self.url})"


class Engines(Protocol):
    @property
    def client(self) -> httpx.AsyncClient:
        """For requests to the engines."""
        ...

    def serves(self, base: CatalogueEntry) -> bool:
        """False: this base is only tuned here; `ready` raises `not_served`."""
        ...

    async def ready(self, base: CatalogueEntry, wait: timedelta | None = None) -> Engine:
        """Waits for it at most `wait`, or else the setting `serving_wait`. Raises Unavailable when it is not ready by
        then, or cannot be."""
        ...

    def suspect(self, base: CatalogueEntry, engine: Engine) -> None:
        """Has the next `ready` look whether this engine still lives."""
        ...

    async def is_healthy(self, engine: Engine) -> bool: ...

    async def stop_all(self) -> None:
        """Stops what was started here, and closes the client."""
        ...


def not_served(base: CatalogueEntry, public_name: str | None = None) -> InvalidRequest:
    name = public_name or base.name
    return InvalidRequest(
        f"The model '{name}' is tuned but not served here: add its base model '{base.name}' to FETTLE_VLLM_URLS.",
        param="model",
        code="model_not_served",
    )


async def is_healthy(engine: Engine, client: httpx.AsyncClient) -> bool:
    try:
        response = await client.get(f"{engine.url}/health", headers=engine.headers, timeout=HEALTH_TIMEOUT_SECONDS)
    except httpx.TransportError:
        return False
    return response.status_code == httpx.codes.OK
