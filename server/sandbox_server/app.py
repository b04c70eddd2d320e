"""The composition root: build, open, serve, drain, close."""

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from sandbox_server import VERSION, engines, feed, manager, metrics, store
from sandbox_server.domain import errors
from sandbox_server.domain.tenant import Tenant
from sandbox_server.reconciler.reconciler import Reconciler
from sandbox_server.rpc import auth, render, tls
from sandbox_server.rpc.server import Server
from sandbox_server.rpc.servicer import Servicer
from sandbox_server.settings import Settings

log = structlog.get_logger()

HEALTH_EVERY = 1.0
HEALTH_WITHIN = 5.0
"""Seconds that the store may take to answer before it counts as gone."""
TRIM_EVERY = 3600.0

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


def engine(settings: Settings) -> engines.Engine:
    """The engine that was asked for, which follows no namespace yet. Only its package is imported."""
    if settings.engine == "kubernetes":
        from sandbox_server.engines import kubernetes

        return kubernetes.KubernetesEngine(settings)
    from sandbox_server.engines import local

    return local.LocalEngine(settings)


def authenticator(settings: Settings) -> auth.Authenticator:
    """Who may call. Raises ValueError for a bad token file."""
    if settings.token_file is not None:
        return auth.TokenFile(settings.token_file)
    return auth.Anyone(Tenant(settings.tenant, settings.namespace_names))


async def serve(settings: Settings) -> None:
    """Runs the service until SIGTERM or SIGINT. Raises ValueError, OSError or `store.SchemaMismatch` if it cannot."""
    stopped = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopped.set)
    who, credentials = authenticator(settings), None
    if settings.tls_cert and settings.tls_key:
        credentials = tls.credentials(settings.tls_cert, settings.tls_key)
    database = store.Store(settings.database, cipher(settings))
    memory = feed.Feed(database, render.Encoder(), settings.heartbeat)
    runs = engine(settings)
    kept = timedelta(seconds=settings.history)
    reconciler = Reconciler(memory, database, runs, settings)
    sandboxes = manager.StatefulSetManager(database, memory, runs)
    server = Server(Servicer(sandboxes, settings), who)
    async with AsyncExitStack() as opened:
        opened.enter_context(store.exclusive(settings.database))
        await database.open(memory.publish)
        opened.push_async_callback(database.close)
        memory.load(*await database.load())
        port = await server.start(settings.listen, credentials)
        opened.push_async_callback(server.close)
        if settings.metrics_listen:
            opened.enter_context(
                metrics.served(settings.metrics_listen, metrics.Service(server, memory, reconciler, runs))
            )
        await runs.open(memory.live(), reconciler.wake)
        opened.push_async_callback(runs.close)
        who.follow(runs.follow)
        work = [
            reconciler.run(),
            memory.beat(),
            _health(server, database, runs),
            _every(settings.follow, "log_not_read", memory.follow),
            _every(TRIM_EVERY, "history_not_trimmed", lambda: database.trim(datetime.now(UTC) - kept)),
        ]
        # One that fails ends all of it.
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
            log.info(
                "serving",
                version=VERSION,
                listen=settings.listen,
                port=port,
                engine=settings.engine,
                tls=credentials is not None,
            )
            await stopped.wait()
            log.info("stopping")
            memory.close()
            await server.stop(settings.shutdown_grace)
            for one in tasks:
                one.cancel()
    log.info("stopped")


async def _every(seconds: float, failure: str, act: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await act()
        except errors.ServiceError as error:
            log.warning(failure, reason=error.reason)
        await asyncio.sleep(seconds)


async def _health(server: Server, database: store.Store, runs: engines.Engine) -> None:
    """SERVING once the engine was in sight and while the store answers; a blind engine later makes statuses stale."""
    seen = False
    while True:
        seen = seen or runs.in_sight
        try:
            async with asyncio.timeout(HEALTH_WITHIN):
                await database.read(lambda reader: reader.ping(), store.Lane.HEALTH)
        except (errors.ServiceError, TimeoutError):
            await server.serving(False)
        else:
            await server.serving(seen)
        await asyncio.sleep(HEALTH_EVERY if seen else HEALTH_EVERY / 20)
