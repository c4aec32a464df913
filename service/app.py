"""The application: the only place where parts are wired together."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.datastructures import State

from service import VERSION
from service.api import router
from service.azure import AzurePaths
from service.batches.loop import BatchRunner
from service.batches.parts import BatchParts
from service.data_dir import lock_data_dir
from service.database.claims import release_all_locks
from service.database.engine import Sessions, create_engine, create_sessions, migrate, wait_until_migrated
from service.dispatcher.loop import Dispatcher
from service.dispatcher.parts import Parts
from service.errors import install_error_handlers
from service.evaluation.evaluation import Evaluator
from service.executors.base import Executor
from service.executors.kubernetes_settings import KubernetesSettings
from service.executors.local_process import LocalProcessExecutor
from service.fine_tuning.estimates import Estimates
from service.graders.graders import Graders
from service.idempotency import key_sweeper
from service.inference.engines import Engines
from service.inference.gateway import warm
from service.inference.remote_vllm import RemoteVllm, check_addresses
from service.inference.routing import FindServedModel
from service.inference.vllm_server import VllmServers
from service.models.models import served_model_finder
from service.object_storage import open_storage
from service.object_storage.base import ObjectStorage
from service.operations.backlog import Backlog
from service.operations.endpoints import Operations, probe_routes
from service.operations.health import Health, database_check, storage_check
from service.operations.measured_executor import MeasuredExecutor
from service.operations.requests import RequestTelemetry
from service.operations.telemetry import Telemetry
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

MIGRATIONS_WAIT = timedelta(minutes=5)
"""For `migrations=checked`; then the process ends, and whoever runs it starts it again."""

log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Raises CatalogueError when `models_file` cannot be used, KubernetesSettingsError for `kubernetes_file`."""
    catalogue = Catalogue.load(settings.models_file)
    check_addresses(settings, catalogue)
    if settings.kubernetes_file is not None and settings.role != "api":
        KubernetesSettings.load(settings.kubernetes_file)
    telemetry, health = Telemetry(settings), Health()
    app = FastAPI(
        title="Fettle",
        description="A self-hosted fine-tuning service with OpenAI's API.",
        version=VERSION,
        lifespan=_lifespan(settings, catalogue, telemetry, health),
        openapi_url=None,  # the committed openapi/openapi.yaml is the reference
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.telemetry = telemetry
    app.state.health = health
    app.state.operations = Operations(health, telemetry.metrics)
    if settings.role == "dispatcher":
        return app  # nobody calls it: its loops run while its lifespan lasts
    install_error_handlers(app)
    app.add_middleware(AzurePaths)
    app.add_middleware(ResponseHeaders)
    app.add_middleware(RequestTelemetry, telemetry, settings.log_format == "json")  # outermost: the one added last
    app.include_router(router)
    app.include_router(reference_pages)
    app.add_api_route("/health", _health, include_in_schema=False)
    app.router.routes.extend(probe_routes(health))
    return app


async def _health() -> dict[str, str]:
    return {"status": "ok"}


def _lifespan(
    settings: Settings, catalogue: Catalogue, telemetry: Telemetry, health: Health
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.enter_context(lock_data_dir(settings.data_dir))
            if telemetry.tracing is not None:
                stack.push_async_callback(telemetry.tracing.close)
            sessions, reader = await stack.enter_async_context(_database(settings, telemetry))
            storage = open_storage(settings.resolved_storage_uri, **settings.s3_access)
            servers = _engines(settings, telemetry)
            if servers is not None:
                stack.push_async_callback(servers.stop_all)
            find_served_model = served_model_finder(sessions, catalogue)
            graders = Graders(settings, servers, find_served_model)
            stack.push_async_callback(graders.close)
            sender = Sender(Addresses(allow_private=settings.webhook_allow_private))
            stack.push_async_callback(sender.close)

            app.state.settings = settings
            app.state.catalogue = catalogue
            app.state.sessions = sessions
            app.state.storage = storage
            app.state.vllm = servers
            app.state.find_served_model = find_served_model
            app.state.graders = graders
            app.state.estimates = Estimates(settings, catalogue, sessions, storage, graders)
            app.state.webhook_sender = sender
            app.state.dispatcher = app.state.batches = None
            checks = {"database": database_check(reader), "storage": storage_check(storage)}
            if settings.role != "api":
                executor = MeasuredExecutor(_executor(settings), telemetry)
                stack.push_async_callback(executor.close)
                if settings.executor == "kubernetes":
                    checks["cluster"] = executor.check
                backlog = app.state.operations.backlog = Backlog(reader, telemetry.metrics)
                stack.callback(backlog.close)
                loops = _loops(app.state, executor, telemetry)
                await stack.enter_async_context(_running(loops, health.stopping))
            health.start(checks)
            stack.callback(health.stop)
            yield

    return lifespan


@asynccontextmanager
async def _database(settings: Settings, telemetry: Telemetry) -> AsyncIterator[tuple[Sessions, AsyncEngine]]:
    """For the work; and one connection beside it for probes and scrapes, which are to be answered when it is busy."""
    url, size = settings.resolved_database_url, settings.database_pool_size - 1
    engine, reader = create_engine(url, size), create_engine(url, 1, only_reads=True)
    try:
        if settings.migrations == "checked":
            await wait_until_migrated(engine, MIGRATIONS_WAIT)
        else:
            log.info("%s", await migrate(engine))
        telemetry.watch_engine(engine, size)
        sessions = create_sessions(engine)
        async with sessions.begin() as session:
            await rename_organization(session, DEFAULT_ORGANIZATION_ID, settings.organization)
            if engine.dialect.name == "sqlite":
                await release_all_locks(session)  # whoever held them is dead: the data folder was free
        yield sessions, reader
    finally:
        await engine.dispose()
        await reader.dispose()


def _loops(state: State, executor: Executor, telemetry: Telemetry) -> list[_Loop]:
    settings, sessions, storage, servers = state.settings, state.sessions, state.storage, state.vllm
    state.dispatcher = _dispatcher(
        settings, state.catalogue, sessions, storage, servers, state.graders, executor, telemetry
    )
    state.batches = _batch_runner(settings, sessions, storage, servers, state.find_served_model, telemetry)
    return [
        state.dispatcher,
        state.batches,
        DeliveryLoop(sessions, state.webhook_sender, settings.poll_interval, telemetry.metrics),
        sweeper(sessions, storage),
        key_sweeper(sessions),
    ]


def _dispatcher(
    settings: Settings,
    catalogue: Catalogue,
    sessions: Sessions,
    storage: ObjectStorage,
    servers: Engines | None,
    graders: Graders,
    executor: Executor,
    telemetry: Telemetry,
) -> Dispatcher:
    return Dispatcher(
        Parts(
            settings=settings,
            catalogue=catalogue,
            sessions=sessions,
            storage=storage,
            executor=executor,
            telemetry=telemetry,
            warm=None if servers is None else telemetry.measured_load(lambda model: warm(servers, model)),
            evaluator=None if servers is None else Evaluator(settings, servers, graders),
        )
    )


def _engines(settings: Settings, telemetry: Telemetry) -> Engines | None:
    if settings.serving == "off":
        return None
    servers = VllmServers(settings) if settings.serving == "vllm" else RemoteVllm(settings)
    if telemetry.tracing is not None:
        telemetry.tracing.watch_client(servers.client)
    return servers


def _executor(settings: Settings) -> Executor:
    if settings.executor == "local":
        environment = settings.s3_environment | settings.wandb_environment
        return LocalProcessExecutor(settings.executions_dir, settings.cancel_grace, environment)
    # Imported here because one machine has no use for it, and its client takes most of a second.
    from service.executors.kubernetes import KubernetesExecutor

    assert settings.kubernetes_file is not None  # the settings see to that
    # Keys of others stand in Secrets that the file names, not in the manifests of pods.
    environment = settings.s3_environment | settings.wandb_environment
    environment.pop("WANDB_API_KEY", None)
    return KubernetesExecutor(KubernetesSettings.load(settings.kubernetes_file), settings.cancel_grace, environment)


def _batch_runner(
    settings: Settings,
    sessions: Sessions,
    storage: ObjectStorage,
    servers: Engines | None,
    find_model: FindServedModel,
    telemetry: Telemetry,
) -> BatchRunner:
    return BatchRunner(
        BatchParts(
            settings=settings,
            sessions=sessions,
            storage=storage,
            servers=servers,
            find_model=find_model,
            telemetry=telemetry,
            room=asyncio.Semaphore(settings.batch_concurrency),
        )
    )


@asynccontextmanager
async def _running(loops: Sequence[_Loop], stopping: asyncio.Event) -> AsyncIterator[None]:
    """They end when `stopping` is set, while open requests are still being answered: what they held is free at once."""
    tasks = [asyncio.create_task(loop.run()) for loop in loops]

    async def end() -> None:
        await stopping.wait()
        await cancel_all(tasks)

    ending = asyncio.create_task(end(), name="end of the loops")
    try:
        yield
    finally:
        stopping.set()
        await ending
