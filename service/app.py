"""The application: the only place where parts are wired together."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI

from service.api import router
from service.azure import AzurePaths
from service.batches.loop import BatchRunner
from service.batches.parts import BatchParts
from service.batches.repository import release_all_batch_locks
from service.data_dir import lock_data_dir
from service.database.engine import create_engine, create_sessions, migrate
from service.dispatcher.claim import release_all_locks
from service.dispatcher.loop import Dispatcher
from service.dispatcher.parts import Parts
from service.errors import install_error_handlers
from service.executors.local_process import LocalProcessExecutor
from service.graders.graders import Graders
from service.idempotency import key_sweeper
from service.inference.gateway import warm
from service.inference.vllm_server import VllmServers
from service.models.models import served_model_finder
from service.object_storage import open_storage
from service.polling import Polling
from service.projects.repository import DEFAULT_ORGANIZATION_ID, rename_organization
from service.reference_pages import router as reference_pages
from service.removals.sweeper import sweeper
from service.response_headers import ResponseHeaders
from service.settings import Settings
from service.webhooks.addresses import Addresses
from service.webhooks.delivery_loop import DeliveryLoop
from service.webhooks.repository import release_all_delivery_locks
from service.webhooks.sending import Sender
from tuning.catalogue import Catalogue

log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Raises CatalogueError when `models_file` cannot be used."""
    app = FastAPI(
        title="Fettle",
        description="A self-hosted fine-tuning service with OpenAI's API.",
        version="0.1.0",
        lifespan=_lifespan(settings, Catalogue.load(settings.models_file)),
        openapi_url=None,  # the committed openapi/openapi.yaml is the reference
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    install_error_handlers(app)
    app.add_middleware(AzurePaths)
    app.add_middleware(ResponseHeaders)  # the outermost: the one added last
    app.include_router(router)
    app.include_router(reference_pages)
    app.add_api_route("/health", _health, include_in_schema=False)
    return app


async def _health() -> dict[str, str]:
    return {"status": "ok"}


def _lifespan(settings: Settings, catalogue: Catalogue) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with lock_data_dir(settings.data_dir):
            engine = create_engine(settings.resolved_database_url)
            await migrate(engine)
            sessions = create_sessions(engine)
            async with sessions.begin() as session:
                await rename_organization(session, DEFAULT_ORGANIZATION_ID, settings.organization)
            if engine.dialect.name == "sqlite":
                await release_all_locks(sessions)  # whoever held them is dead: the data folder was free
                await release_all_delivery_locks(sessions)
                await release_all_batch_locks(sessions)
            storage = open_storage(
                settings.resolved_storage_uri, endpoint_url=settings.s3_endpoint_url, region=settings.s3_region
            )
            servers = VllmServers(settings) if settings.serving == "vllm" else None
            parts = Parts(
                settings=settings,
                catalogue=catalogue,
                sessions=sessions,
                storage=storage,
                executor=LocalProcessExecutor(
                    settings.executions_dir,
                    settings.cancel_grace,
                    settings.s3_endpoint_url,
                    settings.s3_region,
                    settings.wandb_environment,
                ),
                warm=None if servers is None else lambda model: warm(servers, model),
            )
            dispatcher = Dispatcher(parts)
            sender = Sender(Addresses(allow_private=settings.webhook_allow_private))
            webhooks = DeliveryLoop(sessions, sender, settings.poll_interval)
            find_served_model = served_model_finder(sessions, catalogue)
            graders = Graders(settings, servers, find_served_model)
            batches = BatchRunner(
                BatchParts(
                    settings=settings,
                    sessions=sessions,
                    storage=storage,
                    servers=servers,
                    find_model=find_served_model,
                    room=asyncio.Semaphore(settings.batch_concurrency),
                )
            )
            app.state.settings = settings
            app.state.catalogue = catalogue
            app.state.sessions = sessions
            app.state.storage = storage
            app.state.dispatcher = dispatcher
            app.state.vllm = servers
            app.state.webhook_sender = sender
            app.state.batches = batches
            app.state.graders = graders
            app.state.find_served_model = find_served_model
            background: list[Dispatcher | BatchRunner | DeliveryLoop | Polling] = [
                dispatcher,
                batches,
                webhooks,
                sweeper(sessions, storage),
                key_sweeper(sessions),
            ]
            running = [asyncio.create_task(part.run()) for part in background]
            try:
                yield
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
                await sender.close()
                await graders.close()
                if servers is not None:
                    await servers.stop_all()
                await engine.dispose()

    return lifespan
