"""vLLMs that somebody else starts, one address a base model: on a cluster a Service before a Deployment."""

import asyncio
import logging
import ssl
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import httpx

from service.errors import Unavailable
from service.inference.engines import CLIENT_TIMEOUT, HEALTH_TIMEOUT_SECONDS, Engine, is_healthy, not_served
from service.settings import Settings
from tuning.catalogue import Catalogue, CatalogueEntry, CatalogueError

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
MAX_MODELS_BYTES = 4 * 1024 * 1024
"""Of vLLM's own list; every loaded adapter is in it."""


def check_addresses(settings: Settings, catalogue: Catalogue) -> None:
    """Raises CatalogueError for an address of a model that the catalogue does not have."""
    known = [entry.name for entry in catalogue.models]
    if unknown := sorted(settings.vllm_urls.keys() - set(known)):
        raise CatalogueError(
            f"FETTLE_VLLM_URLS names {', '.join(unknown)}, which {settings.models_file} does not have; it has "
            f"{', '.join(known)}. Take the names of `models:` there."
        )


class RemoteVllm:
    def __init__(self, settings: Settings) -> None:
        assert settings.vllm_api_key is not None, "the settings refuse that"
        key = settings.vllm_api_key.get_secret_value()
        self._wait = settings.serving_wait
        self.client = httpx.AsyncClient(
            timeout=CLIENT_TIMEOUT,
            limits=httpx.Limits(max_connections=None),
            trust_env=False,  # a proxy of the environment is for the world outside
            verify=ssl.create_default_context(),  # the system's authorities, and SSL_CERT_FILE: a cluster has its own
        )
        self._engines = {
            name: _RemoteEngine(name, Engine(url.rstrip("/"), key), self.client)
            for name, url in settings.vllm_urls.items()
        }

    def serves(self, base: CatalogueEntry) -> bool:
        return base.name in self._engines

    async def ready(self, base: CatalogueEntry, wait: timedelta | None = None) -> Engine:
        if not self.serves(base):
            raise not_served(base)
        return await self._engines[base.name].ready(self._wait if wait is None else wait)

    def suspect(self, base: CatalogueEntry, engine: Engine) -> None:
        self._engines[base.name].suspect()

    async def is_healthy(self, engine: Engine) -> bool:
        return await is_healthy(engine, self.client)

    async def stop_all(self) -> None:
        """The engines are not ours to stop."""
        for engine in self._engines.values():
            engine.abandon()
        await self.client.aclose()


class _Misplaced(Exception):
    """What answers at the address will not answer us, however long we wait."""


class _RemoteEngine:
    """All requests that wait for the same engine share one look at it."""

    def __init__(self, name: str, engine: Engine, client: httpx.AsyncClient) -> None:
        self._name = name
        self._engine = engine
        self._client = client
        self._is_known_ready = False
        self._looking: asyncio.Task[None] | None = None
        self._waiting = 0
        self._reason = "it was not asked yet"

    async def ready(self, wait: timedelta) -> Engine:
        if self._is_known_ready:
            return self._engine
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._until_ready(), name=f"look at the vLLM of {self._name}")
        looking = self._looking
        self._waiting += 1
        try:
            await asyncio.wait_for(asyncio.shield(looking), wait.total_seconds())
        except TimeoutError:
            log.warning("the vLLM of %s at %s is not ready: %s", self._name, self._engine.url, self._reason)
            message = f"The model '{self._name}' is being loaded: {self._reason}. Try again in a few seconds."
            raise Unavailable(message, retry_after_seconds=5, code="model_loading") from None
        except _Misplaced as error:
            log.error("the vLLM of %s at %s: %s", self._name, self._engine.url, error)
            message = f"The model '{self._name}' cannot be reached: {error}."
            raise Unavailable(message, retry_after_seconds=30, code="model_not_loaded") from error
        finally:
            self._waiting -= 1
            if not self._waiting and not looking.done():
                looking.cancel()
                self._looking = None
        return self._engine

    def suspect(self) -> None:
        self._is_known_ready = False

    def abandon(self) -> None:
        if self._looking is not None:
            self._looking.cancel()

    async def _until_ready(self) -> None:
        """Raises _Misplaced."""
        while not await self._is_ready():  # noqa: ASYNC110  # another machine's server sets no event of ours
            await asyncio.sleep(LOOK_SECONDS)
        self._is_known_ready = True

    async def _is_ready(self) -> bool:
        try:
            if (await self._get("/health")) is None:
                return False
            models = await self._get("/v1/models")
        except httpx.TransportError as error:
            # which kind, and nothing else: the address is nothing for clients
            self._reason = f"nobody answers at its address ({type(error).__name__})"
            return False
        if models is None:
            return False
        if self._name not in (names := _names_in(models)):
            served = ", ".join(names[:3]) or "no model"
            raise _Misplaced(f"its address in FETTLE_VLLM_URLS belongs to another server, which serves {served}")
        return True

    async def _get(self, path: str) -> httpx.Response | None:
        """None: it may answer later, and `_reason` says what it said."""
        url, headers = f"{self._engine.url}{path}", self._engine.headers
        response = await self._client.get(url, headers=headers, timeout=HEALTH_TIMEOUT_SECONDS)
        status = response.status_code
        if status == HTTPStatus.OK:
            return response
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise _Misplaced("its vLLM refuses the key that this server has in FETTLE_VLLM_API_KEY")
        if status < HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.TOO_MANY_REQUESTS:
            raise _Misplaced(f"its address in FETTLE_VLLM_URLS answers {status} to GET {path}, as no vLLM does")
        self._reason = f"its vLLM answers {status}"
        return None


def _names_in(models: httpx.Response) -> list[str]:
    try:
        data: Any = models.json()["data"] if len(models.content) <= MAX_MODELS_BYTES else []
        return [str(model["id"])[:100] for model in data]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
