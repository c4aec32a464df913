"""The client that every section uses, and what an error must look like."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

import openai
from openai import OpenAI

T = TypeVar("T")

client = OpenAI(max_retries=0, timeout=120, _strict_response_validation=True)


def client_with(key: str) -> OpenAI:
    return OpenAI(api_key=key, max_retries=0, timeout=120, _strict_response_validation=True)


def wait_for(look: Callable[[], T], until: Callable[[T], bool]) -> T:
    """What was seen when `until` held."""
    deadline = time.monotonic() + 240
    while not until(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.3)
    return seen


def refused(kind: type[openai.APIStatusError], call: Callable[[], object]) -> dict[str, str | None]:
    """The error's body, which must have all four keys; the SDK reads three of them into attributes."""
    try:
        call()
    except kind as error:
        assert error.request_id, error
        assert isinstance(error.body, dict), error
        assert error.body.keys() == {"message", "type", "param", "code"}, error.body
        assert (error.type, error.param, error.code) == tuple(error.body[name] for name in ("type", "param", "code"))
        return error.body
    raise AssertionError(f"should have been refused with {kind.__name__}")


def admin_key() -> str:
    return os.environ["OPENAI_ADMIN_KEY"]
