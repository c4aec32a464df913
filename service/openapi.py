"""Renders `openapi/openapi.yaml` from the app; a test fails when the committed file is another."""

import yaml
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi


def render(app: FastAPI) -> str:
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    return yaml.safe_dump(schema, sort_keys=False, allow_unicode=True, width=120)
