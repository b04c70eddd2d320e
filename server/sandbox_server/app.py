"""The composition root: build, open, serve, drain, close."""

import asyncio
import gc
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from sandbox_server import VERSION, engines, feed, manager, metrics, store
from sandbox_server.domain import errors
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.tenant import Tenant
from sandbox_server.reconciler.reconciler import Reconciler
from sandbox_server.rpc import auth, render, tls
from sandbox_server.rpc.server import Server
from sandbox_server.rpc.servicer import Servicer
from sandbox_server.settings import Settings

log = structlog.get_logger()

YOUNG = 20_000
"""Objects between two collections of the young ones. With the usual 700, each third change that ten thousand watchers are
told of brought a full collection, during which nobody is served for 0.2 s; with this, none in thirty."""

SWITCH = 0.0001
"""Seconds for which a thread that reads the store may keep the event loop from running. With the usual 0.005, GetStatus
takes 4 ms instead of 2.5 ms (p99) while a thousand watches catch up (`benchmarks/behind.py`)."""


def tune() -> None:
    """Sets what the whole process shares for the service; other programs that use its modules keep their own."""
    gc.set_threshold(YOUNG)
    sys.setswitchinterval(SWITCH)


def cipher(settings: Settings) -> store.Cipher:
    """The keys of env values: those given, else with SQLite a file that is made beside it. Raises ValueError."""
    if text := settings.encryption_keys.get_secret_value():
        return store.Cipher.from_text(text)
    if settings.encryption_key_file is not None:
        return store.Cipher.from_file(settings.encryption_key_file)
    if not isinstance(settings.database, Path) and not settings.database.startswith("sqlite"):
        raise ValueError("encryption-key-file: is needed with a database that others share")
    return store.Cipher.from_file(settings.data_dir / "encryption.key", create=True)


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of a service that runs.

    `port` is where it listens, `secured` whether with TLS. `reconciling` may be cancelled by itself: the service then
    goes on answering calls, and the engine is left as it is.
    """

    store: store.Store
    feed: feed.Feed
    engine: engines.Engine
    reconciler: Reconciler
    manager: manager.StatefulSetManager
    server: Server
    port: int
    secured: bool
    reconciling: asyncio.Task[None]


@asynccontextmanager
async def service(
    settings: Settings,
    *,
    database: store.Store | None = None,
    engine: engines.Engine | None = None,
    authenticator: auth.Authenticator | None = None,
) -> AsyncIterator[Service]:
    """The service, which serves until the body ends and is then drained and closed.

    The parts are made from the settings, except those that are given. Raises ValueError, OSError or
    `store.SchemaMismatch` if the service cannot start. A part that fails later cancels the body, and its error is
    raised in an ExceptionGroup.
    """
    authenticator = authenticator or _authenticator(settings)
    credentials = None
    if settings.tls_cert and settings.tls_key:
        credentials = tls.credentials(settings.tls_cert, settings.tls_key)
    pace = settings.pace
    given = database
    database = database or store.Store(settings.database, cipher(settings))
    memory = feed.Feed(database, render.Encoder(), pace)
    engine = engine or _engine(settings)
    reconciler = Reconciler(memory, database, engine, settings.workers, pace)
    sandboxes = manager.StatefulSetManager(database, memory, engine)
    server = Server(Servicer(sandboxes, settings), authenticator)
    kept = timedelta(seconds=settings.history)
    async with AsyncExitStack() as opened:
        if given is None:
            opened.enter_context(store.exclusive(settings.database))
        await database.open(memory.publish)
        opened.push_async_callback(database.close)
        memory.load(*await database.load())
        port = await server.start(settings.listen, credentials)
        opened.push_async_callback(server.close)
        if settings.metrics_listen:
            opened.enter_context(
                metrics.served(settings.metrics_listen, metrics.Service(server, memory, reconciler, engine))
            )
        await engine.open(memory.catalogue.sandboxes(), reconciler.wake)
        opened.push_async_callback(engine.close)
        authenticator.follow(engine.follow)
        async with asyncio.TaskGroup() as group:
            reconciling = group.create_task(reconciler.run())
            others = [
                group.create_task(memory.beat()),
                group.create_task(_health(server, database, engine, pace)),
                group.create_task(_every(pace.follow, "log_not_read", memory.follow)),
                group.create_task(
                    _every(pace.trim_every, "history_not_trimmed", lambda: database.trim(datetime.now(UTC) - kept))
                ),
            ]
            yield Service(
                store=database,
                feed=memory,
                engine=engine,
                reconciler=reconciler,
                manager=sandboxes,
                server=server,
                port=port,
                secured=credentials is not None,
                reconciling=reconciling,
            )
            memory.close()
            await server.stop(pace.shutdown_grace)
            for task in (reconciling, *others):
                task.cancel()


async def serve(settings: Settings) -> None:
    """Runs the service until SIGTERM or SIGINT. Raises what `service` raises."""
    stopped = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopped.set)
    async with service(settings) as running:
        log.info(
            "serving",
            version=VERSION,
            listen=settings.listen,
            port=running.port,
            engine=settings.engine,
            tls=running.secured,
        )
        await stopped.wait()
        log.info("stopping")
    log.info("stopped")


def _engine(settings: Settings) -> engines.Engine:
    """The engine that was asked for, which follows no namespace yet. Only its package is imported."""
    if settings.engine == "kubernetes":
        from sandbox_server.engines import kubernetes

        return kubernetes.KubernetesEngine(settings)
    from sandbox_server.engines import local

    return local.LocalEngine(settings)


def _authenticator(settings: Settings) -> auth.Authenticator:
    """Who may call. Raises ValueError for a bad token file."""
    if settings.token_file is not None:
        return auth.TokenFile(settings.token_file)
    return auth.Anyone(Tenant(settings.tenant, settings.namespace_names))


async def _every(seconds: float, failure: str, act: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await act()
        except errors.ServiceError as error:
            log.warning(failure, reason=error.reason)
        await asyncio.sleep(seconds)


async def _health(server: Server, database: store.Store, cluster: engines.Cluster, pace: Pace) -> None:
    """SERVING once the engine was synced and while the store answers. An engine that is not synced later makes statuses stale."""
    synced = False
    while True:
        synced = synced or cluster.any_synced
        try:
            async with asyncio.timeout(pace.health_within):
                await database.read(lambda reader: reader.ping(), store.Lane.HEALTH)
        except (errors.ServiceError, TimeoutError):
            await server.serving(False)
        else:
            await server.serving(synced)
        await asyncio.sleep(pace.health_every if synced else pace.health_every / 20)
