"""Where webhooks may be sent: never into the network that this server stands in, unless its operator allows that."""

import asyncio
import ipaddress
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx

MAX_URL_LENGTH = 2048
LOOKUP_THREADS = 32
"""Of our own: names that nobody answers for must not take the threads that files are read with."""

_HOST_NAME = re.compile(r"(?!.{254})([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
_LOCALHOST = re.compile(r"(.+\.)?localhost\.?", re.IGNORECASE)

_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
"""All that is given out; the rest is link-local, multicast, reserved or a transition of old."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_CARRIER_NAT = ipaddress.IPv4Network("100.64.0.0/10")
_CLOUD_METADATA = frozenset(
    ipaddress.ip_address(address)
    for address in ("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254")
)
"""Where clouds (AWS, Google, Alibaba, Azure, Oracle) give credentials to whoever asks from inside."""


class AddressRefused(Exception):
    """In words that a client may read: they tell nothing about what a name leads to."""


class Addresses:
    def __init__(self, *, allow_private: bool) -> None:
        """`allow_private`: also this machine, private networks and plain http."""
        self._allow_private = allow_private
        self._threads = ThreadPoolExecutor(LOOKUP_THREADS, "webhook-dns")

    def check_url(self, url: str) -> None:
        """Asks no name server: where a name leads is checked at each attempt. Raises AddressRefused."""
        host = _host_of(url, self._allow_private)
        if _LOCALHOST.fullmatch(host):
            self._check(host, "127.0.0.1")
        with suppress(socket.gaierror):  # it is a name
            for address in _look_up(host, socket.AI_NUMERICHOST):
                self._check(host, address)

    async def of_host(self, host: str) -> list[str]:
        """The addresses to connect to. Raises AddressRefused, and OSError when the name leads nowhere."""
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host)
        for address in found:
            self._check(host, address)
        return found

    def _check(self, host: str, address: str) -> None:
        if not is_allowed(address, allow_private=self._allow_private):
            raise AddressRefused(
                f"'{host}' does not lead to a public address, and this server sends webhooks to no others. "
                "Its operator can allow private ones with FETTLE_WEBHOOK_ALLOW_PRIVATE."
            )

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def is_allowed(address: str, *, allow_private: bool) -> bool:
    ip = _embedded_ipv4(ipaddress.ip_address(address))
    if ip in _CLOUD_METADATA or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        return False
    if allow_private and (ip.is_loopback or ip.is_private or (ip.version == 4 and ip in _CARRIER_NAT)):
        return True
    return ip.is_global and (ip.version == 4 or ip in _GLOBAL_IPV6)


def _embedded_ipv4(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 one stands for, where it stands for one."""
    if ip.version == 4:
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


def _host_of(url: str, allow_private: bool) -> str:
    if not url.isprintable() or " " in url:
        raise AddressRefused("It is not a URL: it has spaces or characters that do not print.")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise AddressRefused(f"It is not a URL: {error}") from error
    host = parsed.raw_host.decode()
    if parsed.scheme != "https" and not (allow_private and parsed.scheme == "http"):
        raise AddressRefused("It must begin with 'https://'.")
    if not (_HOST_NAME.fullmatch(host) or (":" in host and "%" not in host)):
        raise AddressRefused("It names no host that exists.")
    if parsed.port is not None and not 1 <= parsed.port <= 65535:
        raise AddressRefused(f"{parsed.port} is no port.")
    if parsed.userinfo:
        raise AddressRefused("It must hold no user and password; requests are signed instead.")
    if "#" in url:
        raise AddressRefused("It must have no fragment ('#…'): that is never sent.")
    return host


def _look_up(host: str, flags: int = 0) -> list[str]:
    """Also of forms such as `0x7f.1` and `2130706433`, which systems take for addresses."""
    # bytes: a str would be encoded with Python's own idna codec first
    found = socket.getaddrinfo(host.encode(), None, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
