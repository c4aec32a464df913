"""Standard Webhooks (standardwebhooks.com): how a receiver knows that a request is ours, and not an old one."""

import base64
import hashlib
import hmac
import secrets as random
from collections.abc import Sequence

_PREFIX = "whsec_"
_SECRET_BYTES = 32


def new_secret() -> str:
    return _PREFIX + base64.b64encode(random.token_bytes(_SECRET_BYTES)).decode()


def secret_hint(secret: str) -> str:
    return f"{_PREFIX}***{secret[-5:]}"


def signed_headers(message_id: str, timestamp: int, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """One signature for each secret: while a secret is being changed, receivers know one or the other."""
    content = f"{message_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{_signature(content, secret)}" for secret in secrets),
    }


def _signature(content: bytes, secret: str) -> str:
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    return base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
