"""Who may call: a bearer key from the settings; without configured keys everybody on this machine."""

import hmac
from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from service.dependencies import ConfiguredSettings
from service.errors import AuthenticationError

_bearer = HTTPBearer(auto_error=False, description="`Authorization: Bearer KEY`, a key of FETTLE_API_KEYS.")


async def require_key(
    settings: ConfiguredSettings, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    if not settings.api_keys:
        return
    if credentials is None:
        raise AuthenticationError(
            "You didn't provide an API key. Send it in the header 'Authorization: Bearer YOUR_KEY'."
        )
    if not _is_known(credentials.credentials, settings.api_keys):
        raise AuthenticationError(f"Incorrect API key provided: {_masked(credentials.credentials)}.")


def _is_known(key: str, known: Sequence[SecretStr]) -> bool:
    # every key is compared, so that the time tells nothing
    matches = [hmac.compare_digest(key.encode(), other.get_secret_value().encode()) for other in known]
    return any(matches)


def _masked(key: str) -> str:
    return f"{key[:3]}***{key[-4:]}" if len(key) > 12 else "***"
