"""One signed request to one endpoint, and what became of it."""

import asyncio
import json
import time
from contextlib import suppress
from datetime import timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from service.database.tables import WebhookDeliveryRow, WebhookEndpointRow
from service.webhooks.addresses import Addresses, AddressRefused
from service.webhooks.schemas import DeliveryAttempt
from service.webhooks.signatures import signed_headers

CONNECT_TIME = timedelta(seconds=5)
TOTAL_TIME = timedelta(seconds=15)
BODY_TIME = timedelta(seconds=2)
"""For the beginning of the answer's body, once its status is known: that alone decides."""
MAX_BODY_BYTES = 1000
MAX_ERROR_CHARACTERS = 300
MAX_ADDRESSES_TRIED = 3

USER_AGENT = "Fettle-Webhooks/1"


class UnknownHost(httpx.ConnectError):
    def __init__(self) -> None:
        super().__init__("Its host name is not known.")


class Sender:
    def __init__(self, addresses: Addresses) -> None:
        self.addresses = addresses
        no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # endpoints of different projects share a host
        self._client = httpx.AsyncClient(
            transport=_PinnedTransport(addresses),
            timeout=httpx.Timeout(TOTAL_TIME.total_seconds(), connect=CONNECT_TIME.total_seconds()),
            follow_redirects=False,  # it would lead to places that nobody checked
            trust_env=False,  # a proxy would resolve the name again, and reach what we must not
            cookies=no_cookies,
            headers={"user-agent": USER_AGENT, "accept-encoding": "identity", "content-type": "application/json"},
        )

    async def send(self, delivery: WebhookDeliveryRow, endpoint: WebhookEndpointRow) -> DeliveryAttempt:
        """Raises nothing that the network or the receiver could cause."""
        started_at, clock = time.time(), time.perf_counter()
        status_code = response_body = error = None
        try:
            async with asyncio.timeout(TOTAL_TIME.total_seconds()):
                status_code, response_body = await self._post(delivery, endpoint, int(started_at))
        except (httpx.HTTPError, httpx.InvalidURL, AddressRefused, OSError) as failure:
            error = _in_words(failure)
        if status_code is not None and 300 <= status_code < 400:
            error = "It answered with a redirect, and those are not followed."
        return DeliveryAttempt(
            started_at=int(started_at),
            duration_ms=round(1000 * (time.perf_counter() - clock)),
            status_code=status_code,
            response_body=response_body,
            error=error,
        )

    async def _post(
        self, delivery: WebhookDeliveryRow, endpoint: WebhookEndpointRow, timestamp: int
    ) -> tuple[int, str | None]:
        body = event_body(delivery)
        headers = signed_headers(delivery.event_id, timestamp, body, _secrets(endpoint, timestamp))
        async with self._client.stream("POST", endpoint.url, content=body, headers=headers) as response:
            return response.status_code, await _beginning(response)

    async def close(self) -> None:
        await self._client.aclose()
        self.addresses.close()


def event_body(delivery: WebhookDeliveryRow) -> bytes:
    """The same bytes for each attempt."""
    event = {
        "id": delivery.event_id,
        "object": "event",
        "type": delivery.event_type,
        "created_at": int(delivery.created_at),
        "data": {"id": delivery.object_id},
    }
    return json.dumps(event).encode()


def _secrets(endpoint: WebhookEndpointRow, now: float) -> list[str]:
    """The one that receivers should know first: some look at no other signature."""
    return [endpoint.secret, *[old["secret"] for old in endpoint.old_secrets if old["expires_at"] > now]]


async def _beginning(response: httpx.Response) -> str | None:
    """As it came: nothing is decompressed."""
    content = b""
    with suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout(BODY_TIME.total_seconds()):
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) >= MAX_BODY_BYTES:
                    break
    return content[:MAX_BODY_BYTES].decode(errors="replace").replace("\0", "�") or None


def _in_words(failure: Exception) -> str:
    match failure:
        case AddressRefused() | UnknownHost():
            words = str(failure)
        case httpx.ConnectError() if "SSL" in str(failure):
            words = f"TLS failed: {failure}"
        case httpx.ConnectError():
            words = "The connection was refused, or could not be made."
        case httpx.TimeoutException() | TimeoutError():
            words = "There was no answer in time."
        case httpx.RemoteProtocolError():
            words = "The answer was not HTTP, or broke off."
        case _:
            words = f"The connection broke ({type(failure).__name__})."
    return words[:MAX_ERROR_CHARACTERS]


class _PinnedTransport(httpx.AsyncBaseTransport):
    """Looks a name up once, checks the addresses, and connects to those: an answer that changes in between is unheard.

    The name stays in the `Host` header, in TLS's server name, and in what the certificate is checked against.
    """

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        # one request a connection: with TLS a kept one would belong to an address, no longer to a name
        self._inner = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_keepalive_connections=0))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.raw_host.decode()
        try:
            addresses = await self._addresses.of_host(host)
        except OSError as error:
            raise UnknownHost from error
        failure: httpx.TransportError | None = None
        for address in addresses[:MAX_ADDRESSES_TRIED]:
            pinned = httpx.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions=request.extensions | {"sni_hostname": host},
            )
            try:
                return await self._inner.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure or UnknownHost

    async def aclose(self) -> None:
        await self._inner.aclose()
