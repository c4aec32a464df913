"""`/livez`, `/readyz` and `/metrics`, for probes and Prometheus: without a key, and without anything to hide."""

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from service.operations.backlog import Backlog
from service.operations.health import Health
from service.operations.metrics import Metrics


def probe_routes(health: Health) -> list[BaseRoute]:
    async def livez(request: Request) -> Response:
        """The process lives: it has answered."""
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        """Whether it can do its work; 503 names what it lacks."""
        readiness = await health.readiness()
        return JSONResponse(readiness.as_json(), status_code=200 if readiness.is_ready else 503)

    return [Route("/livez", livez), Route("/readyz", readyz)]


class Operations:
    """What the ops port answers from; `backlog` is there where the loops are, once the database is."""

    def __init__(self, health: Health, metrics: Metrics) -> None:
        self.health = health
        self.metrics = metrics
        self.backlog: Backlog | None = None

    def create_app(self) -> Starlette:
        async def metrics(request: Request) -> Response:
            readiness = await self.health.readiness()
            for part, words in readiness.parts.items():
                self.metrics.ready.labels(part).set(words == "ok")
            if self.backlog is not None:
                await self.backlog.refresh()
            return Response(self.metrics.render(), media_type=CONTENT_TYPE_LATEST)

        return Starlette(routes=[*probe_routes(self.health), Route("/metrics", metrics)])
