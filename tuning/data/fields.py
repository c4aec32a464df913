"""Checks of one field of a row; `messages`, `tools` and `formats` are made of them."""

from collections.abc import Collection
from typing import Any

_JSON_TYPES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}

_MAX_SHOWN = 100


class FieldError(Exception):
    """A field breaks a rule; `formats.parse_row` adds the row's number."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(field, message)
        self.field = field
        self.message = message


def expect_object(value: object, field: str, keys: Collection[str]) -> dict[str, Any]:
    """An object with no other keys than these: what we would not use must not look as if it were used."""
    if not isinstance(value, dict):
        raise FieldError(field, f"must be an object, but is {json_type(value)}")
    for key in value:
        if key not in keys:
            path = f"{field}.{shorten(key)}" if field else shorten(key)
            raise FieldError(path, f"is not a known key; remove it, or use one of {', '.join(keys)}")
    return value


def expect_list(value: object, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise FieldError(field, f"must be an array, but is {json_type(value)}")
    return value


def expect_string(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise FieldError(field, f"must be a string, but is {json_type(value)}")
    return value


def shorten(text: str) -> str:
    """What a row says, short enough for a message."""
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def json_type(value: object) -> str:
    return _JSON_TYPES[type(value)]
