"""The application: the only place where parts are wired together."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from service.api import router
from service.azure import AzurePaths
from service.batches.loop import BatchRunner
from service.batches.parts import BatchParts
from service.data_dir import lock_data_dir
from service.database.claims import release_all_locks
from service.database.engine import Sessions, create_engine, create_sessions, migrate
from service.dispatcher.loop import Dispatcher
from service.dispatcher.parts import Parts
from service.errors import install_error_handlers
from service.executors.local_process import LocalProcessExecutor
from service.graders.graders import Graders
from service.idempotency import key_sweeper
from service.inference.gateway import warm
from service.inference.routing import FindServedModel
from service.inference.vllm_server import VllmServers
from service.models.models import served_model_finder
from service.object_storage import open_storage
from service.object_storage.base import ObjectStorage
from service.polling import Polling, cancel_all
from service.projects.repository import DEFAULT_ORGANIZATION_ID, rename_organization
from service.reference_pages import router as reference_pages
from service.removals.sweeper import sweeper
from service.response_headers import ResponseHeaders
from service.settings import Settings
from service.webhooks.addresses import Addresses
from service.webhooks.delivery_loop import DeliveryLoop
from service.webhooks.sending import Sender
from tuning.catalogue import Catalogue

_Loop = Dispatcher | BatchRunner | DeliveryLoop | Polling

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
        async with AsyncExitStack() as stack:
            stack.enter_context(lock_data_dir(settings.data_dir))
            sessions = await stack.enter_async_context(_database(settings))
            storage = open_storage(
                settings.resolved_storage_uri, endpoint_url=settings.s3_endpoint_url, region=settings.s3_region
            )
            servers = VllmServers(settings) if settings.serving == "vllm" else None
            if servers is not None:
                stack.push_async_callback(servers.stop_all)
            find_served_model = served_model_finder(sessions, catalogue)
            graders = Graders(settings, servers, find_served_model)
            stack.push_async_callback(graders.close)
            sender = Sender(Addresses(allow_private=settings.webhook_allow_private))
            stack.push_async_callback(sender.close)
            dispatcher = _dispatcher(settings, catalogue, sessions, storage, servers)
            batches = _batch_runner(settings, sessions, storage, servers, find_served_model)

            app.state.settings = settings
            app.state.catalogue = catalogue
            app.state.sessions = sessions
            app.state.storage = storage
            app.state.vllm = servers
            app.state.find_served_model = find_served_model
            app.state.graders = graders
            app.state.webhook_sender = sender
            app.state.dispatcher = dispatcher
            app.state.batches = batches
            loops: list[_Loop] = [
                dispatcher,
                batches,
                DeliveryLoop(sessions, sender, settings.poll_interval),
                sweeper(sessions, storage),
                key_sweeper(sessions),
            ]
            await stack.enter_async_context(_running(loops))
            yield

    return lifespan


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Sessions]:
    engine = create_engine(settings.resolved_database_url)
    try:
        await migrate(engine)
        sessions = create_sessions(engine)
        async with sessions.begin() as session:
            await rename_organization(session, DEFAULT_ORGANIZATION_ID, settings.organization)
            if engine.dialect.name == "sqlite":
                await release_all_locks(session)  # whoever held them is dead: the data folder was free
        yield sessions
    finally:
        await engine.dispose()


def _dispatcher(
    settings: Settings, catalogue: Catalogue, sessions: Sessions, storage: ObjectStorage, servers: VllmServers | None
) -> Dispatcher:
    executor = LocalProcessExecutor(
        settings.executions_dir,
        settings.cancel_grace,
        settings.s3_endpoint_url,
        settings.s3_region,
        settings.wandb_environment,
    )
    return Dispatcher(
        Parts(
            settings=settings,
            catalogue=catalogue,
            sessions=sessions,
            storage=storage,
            executor=executor,
            warm=None if servers is None else lambda model: warm(servers, model),
        )
    )


def _batch_runner(
    settings: Settings,
    sessions: Sessions,
    storage: ObjectStorage,
    servers: VllmServers | None,
    find_model: FindServedModel,
) -> BatchRunner:
    return BatchRunner(
        BatchParts(
            settings=settings,
            sessions=sessions,
            storage=storage,
            servers=servers,
            find_model=find_model,
            room=asyncio.Semaphore(settings.batch_concurrency),
        )
    )


@asynccontextmanager
async def _running(loops: Sequence[_Loop]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(loop.run()) for loop in loops]
    try:
        yield
    finally:
        await cancel_all(tasks)
