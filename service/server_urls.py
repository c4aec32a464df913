"""The addresses of servers that we send requests to, as settings give them."""

from urllib.parse import urlsplit


def fault_of_server_url(url: str) -> str | None:
    """What is wrong with it, or None."""
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0  # `port` raises for one that is no number
    except ValueError as error:
        return f"is not a URL ({error})"
    if parts.scheme not in ("http", "https") or not has_host or not url.isascii() or not url.isprintable():
        return "is not an http:// or https:// URL"
    if "@" in parts.netloc:
        return "has a user or password in it, which belong elsewhere"
    if parts.query or parts.fragment:
        return "has a query or a fragment"
    return None
