"""Renders `openapi/openapi.yaml` from the app; a test fails when the committed file is another."""

from typing import Any

import yaml
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "What is wrong, where, and what to do."},
                "type": {"type": "string", "examples": ["invalid_request_error"]},
                "param": {"type": ["string", "null"], "description": "The field it is about."},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}

_ERROR_EXAMPLE = {
    "error": {
        "message": "-42 is less than the minimum of 1 - 'n_epochs'",
        "type": "invalid_request_error",
        "param": "method.supervised.hyperparameters.n_epochs",
        "code": None,
    }
}

_ERROR_RESPONSE: dict[str, Any] = {
    "description": "An error, in OpenAI's shape.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}, "example": _ERROR_EXAMPLE}},
}


def render(app: FastAPI) -> str:
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for path in schema["paths"].values():
        for operation in path.values():
            # FastAPI documents its own 422, which this service never answers.
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = _ERROR_RESPONSE
    schemas = schema["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Error"] = _ERROR_SCHEMA
    return yaml.dump(schema, Dumper=_NoAliases, sort_keys=False, allow_unicode=True, width=120)


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True
