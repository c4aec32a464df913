"""The reference documentation: `/docs` for people, `/openapi.json` and `/openapi.yaml` for programs.

The page loads nothing from elsewhere, so that it works where nothing else can be reached.
"""

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse

from service.errors import NotFound
from service.openapi import describe, render

router = APIRouter(include_in_schema=False)

# Swagger UI styles its elements one by one and draws its icons from data.
_PAGE_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Fettle: API reference</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="reference"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""

_START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  validatorUrl: null,
});
"""

_ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
"""Package data of fastapi-offline."""


@router.get("/docs")
async def show_reference() -> Response:
    return Response(_PAGE, media_type="text/html", headers=_PAGE_HEADERS)


@router.get("/docs/{name}")
async def show_asset(name: str) -> Response:
    if name == "start.js":
        return Response(_START, media_type="text/javascript", headers=_PAGE_HEADERS)
    if name not in _ASSETS:
        raise NotFound(f"Invalid URL (GET /docs/{name[:100]})")
    path = str(files("fastapi_offline") / "static" / name)
    return FileResponse(path, media_type=_ASSETS[name], headers=_PAGE_HEADERS | {"cache-control": "max-age=86400"})


@router.get("/openapi.json")
async def show_openapi_json(request: Request) -> Response:
    return Response(json.dumps(_description(request.app)), media_type="application/json")


@router.get("/openapi.yaml")
async def show_openapi_yaml(request: Request) -> Response:
    return Response(_description_yaml(request.app), media_type="application/yaml")


@lru_cache(maxsize=1)
def _description(app: FastAPI) -> dict[str, Any]:
    return describe(app)


@lru_cache(maxsize=1)
def _description_yaml(app: FastAPI) -> str:
    return render(app)
