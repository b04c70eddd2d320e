"""Builds the service from its parts, and opens, serves, drains and closes it."""

import asyncio
import contextlib
import ctypes
import functools
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from sandbox_server import VERSION, engines, failpoints, feed, leases, manager, metrics, monitoring, store
from sandbox_server.access.asking import Asking
from sandbox_server.access.execs import Execs
from sandbox_server.access.files import Files
from sandbox_server.access.holds import Holds
from sandbox_server.access.logs import Logs
from sandbox_server.access.measuring import Measuring
from sandbox_server.access.ports import Ports
from sandbox_server.access.sandboxes import Sandboxes
from sandbox_server.access.streams import Streams
from sandbox_server.access.trees import Trees
from sandbox_server.adoption import Adoption
from sandbox_server.domain import errors
from sandbox_server.domain.adoption import Former, Unfit
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.tenant import Tenant
from sandbox_server.reconciler.reconciler import Reconciler
from sandbox_server.rpc import adoption, auth, render, tls
from sandbox_server.rpc.access import AccessServicer
from sandbox_server.rpc.adoption import AdoptionServicer, Finder
from sandbox_server.rpc.calls import Calls
from sandbox_server.rpc.capabilities import Deployment
from sandbox_server.rpc.schedules import ScheduleServicer
from sandbox_server.rpc.server import Server
from sandbox_server.rpc.servicer import Servicer
from sandbox_server.rpc.snapshots import SnapshotServicer
from sandbox_server.schedules.deletions import Deletions
from sandbox_server.schedules.manager import ScheduleManager
from sandbox_server.schedules.runner import Runner
from sandbox_server.schedules.steps import Steps
from sandbox_server.settings import Settings
from sandbox_server.snapshots.keeper import Keeper
from sandbox_server.snapshots.manager import SnapshotManager
from sandbox_server.terminal.names import Names
from sandbox_server.terminal.page import Page
from sandbox_server.terminal.sessions import Sessions
from sandbox_server.terminal.tickets import Tickets

log = structlog.get_logger()

YOUNG = 20_000
"""Allocations between two collections of young objects. With Python's 700, every third event that was sent to ten thousand
watchers caused a full collection, which stops the service for 0.2 s. With this, none of thirty did."""

KEPT_MOST = 16 << 20
"""Free bytes at the end of the heap that are kept. glibc gives each buffer of a large message back to the kernel, which clears
its pages for the next one: a quarter of the CPU time of WriteFile."""
MAPPED_LEAST = 4 << 20
"""Bytes from which on a block is mapped on its own: more than a message has."""
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def tune() -> None:
    """Sets the switches of the whole process. Called where the process starts, since other programs may use `service`."""
    gc.set_threshold(YOUNG)
    # What is imported stays to the end. Its 150,000 objects were most of what a full collection examined.
    gc.freeze()
    # Other C libraries than glibc have no such function.
    with contextlib.suppress(AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(_M_TRIM_THRESHOLD, KEPT_MOST)
        set_option(_M_MMAP_THRESHOLD, MAPPED_LEAST)


def cipher(settings: Settings) -> store.Cipher:
    """Returns the cipher for environments. Without keys in the settings, SQLite gets a new key file beside it.

    Raises ValueError for keys that cannot be used, and for PostgreSQL without keys.
    """
    text = settings.encryption_keys.get_secret_value()
    if text:
        return store.Cipher.from_text(text)
    if settings.encryption_key_file is not None:
        return store.Cipher.from_file(settings.encryption_key_file)
    if not isinstance(settings.database, Path) and not settings.database.startswith("sqlite"):
        raise ValueError("encryption-key-file: is needed with a database that others share")
    return store.Cipher.from_file(settings.own_key_file, create=True)


def has_keys(settings: Settings) -> bool:
    """Returns whether the settings name keys, or the service has made its key file."""
    given = settings.encryption_keys.get_secret_value() or settings.encryption_key_file
    return bool(given) or settings.own_key_file.exists()


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of a running service.

    `port` is the port that it listens on, `secured` whether with TLS. If `reconciling` is cancelled, the service goes on
    answering calls, and nothing changes the cluster.
    """

    store: store.Store
    snapshots: feed.Snapshots
    feed: feed.Feed
    engine: engines.Engine
    reconciler: Reconciler
    keeper: Keeper
    runner: Runner
    manager: manager.StatefulSetManager
    server: Server
    port: int
    secured: bool
    reconciling: asyncio.Task[None]
    measuring: Measuring
    leases: leases.Leases


@asynccontextmanager
async def service(
    settings: Settings,
    *,
    event_store: store.Store | None = None,
    engine: engines.Engine | None = None,
    authenticator: auth.Authenticator | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> AsyncIterator[Service]:
    """Yields a service that serves until the body ends, and then drains and closes it.

    Schedules go by the clock `now`, and so does what becomes of snapshots.

    The parts that are not given are made from the settings. Raises ValueError, OSError or `store.SchemaMismatch` if the
    service cannot start. A part that fails later cancels the body, and its error is raised in an ExceptionGroup.
    """
    pace = settings.pace
    authenticator = authenticator or _authenticator(settings, pace)
    credentials = None
    if settings.tls_cert and settings.tls_key:
        credentials = tls.credentials(settings.tls_cert, settings.tls_key, pace)
    store_is_given = event_store is not None
    keys = cipher(settings)
    event_store = event_store or store.Store(settings.database, keys, busy_timeout=pace.sqlite_busy_timeout)
    event_feed = feed.Feed(event_store, render.Encoder(), pace)
    snapshots = feed.Snapshots(event_store, pace)
    engine = engine or _engine(settings, pace)
    namespaces = _leases(settings, event_store, event_feed, engine)
    reconciler = Reconciler(event_feed, event_store, engine, namespaces, settings.workers, pace)
    keeper = Keeper(snapshots, event_feed, event_store, engine, namespaces, pace, settings.verified_at_once, now)
    found = Sandboxes(event_feed, engine, pace)
    execs = Execs(event_store, found, engine, pace, settings.execs_per_tenant)
    streams = Streams(execs, pace)
    terminals = Sessions(found, execs, streams, Holds(found, engine, pace), Tickets(keys), pace)
    sandboxes = manager.StatefulSetManager(event_store, event_feed, Names(engine, terminals.url), engine, namespaces)
    snapshotting = SnapshotManager(snapshots, event_store, engine, settings.snapshots_per_tenant, pace.heartbeat)
    steps = Steps(snapshots, event_store, snapshotting, settings.snapshots_per_tenant, now)
    deletions = Deletions(snapshots, event_feed, event_store, snapshotting, pace, now)
    runner = Runner(event_feed, snapshots, event_store, steps, deletions, namespaces, pace, now)
    history = timedelta(seconds=settings.history)
    deployment = Deployment(
        engine=settings.engine,
        history=history,
        tls=credentials is not None,
        tokens=authenticator.needs_token,
        reflection=settings.reflection,
        execs_per_tenant=settings.execs_per_tenant,
    )
    asking = Asking(found, engine, pace)
    files = Files(event_store, asking)
    measuring = Measuring(event_feed, namespaces, files, pace, reconciler.measured)
    server = Server(
        (
            Servicer(sandboxes, found, files, snapshotting, settings.defaults, settings.policy, pace, deployment),
            AccessServicer(
                execs,
                streams,
                Logs(found, engine, pace),
                Ports(found, engine, pace),
                files,
                Trees(event_store, asking),
                terminals,
                pace,
            ),
            SnapshotServicer(snapshotting, pace),
            ScheduleServicer(ScheduleManager(event_store, now), pace),
            AdoptionServicer(
                Adoption(event_store, engine),
                _finder(settings, pace),
                authenticator.owner,
                functools.partial(store.legacy.known, settings.database),
            ),
        ),
        Calls(authenticator, pace),
        settings.reflection,
    )
    async with AsyncExitStack() as opened:
        if not store_is_given:
            opened.enter_context(store.exclusive(settings.database))
        await event_store.open(event_feed.publish)
        opened.push_async_callback(event_store.close)
        event_feed.load(*await event_store.load())
        await snapshots.load()
        await namespaces.open()
        port = await server.start(settings.listen, credentials)
        opened.push_async_callback(server.close)
        if settings.access_addresses:
            terminals.address = await opened.enter_async_context(_page(settings, terminals, authenticator, pace))
            opened.push_async_callback(terminals.close)
        if settings.metrics_listen:
            opened.enter_context(
                monitoring.served(
                    settings.metrics_listen,
                    metrics.Service(
                        server.calls,
                        event_feed,
                        reconciler,
                        keeper,
                        runner,
                        namespaces,
                        measuring,
                        settings.usage_metrics,
                    ),
                    monitoring.Health(lambda: server.is_serving),
                )
            )
        await engine.open(event_feed.catalogue.sandboxes(), reconciler.wake, namespaces.held)
        opened.push_async_callback(engine.close)
        authenticator.follow(namespaces.serve)

        async def trim() -> None:
            await event_store.trim(datetime.now(UTC) - history)

        def hear(notice: store.Notice | None) -> None:
            if notice is not None and notice.snapshots is not None:
                snapshots.announce(notice.snapshots)
                return
            if notice is None or notice.sequence is None:
                namespaces.wake()
            if notice is not None and notice.sequence is not None:
                event_feed.announce(notice.sequence)

        async with asyncio.TaskGroup() as group:
            reconciling = group.create_task(reconciler.run())
            keeping = group.create_task(keeper.run())
            holding = group.create_task(namespaces.run())
            working = [reconciling, keeping, holding, group.create_task(runner.run())]
            if pace.usage_interval:
                working.append(group.create_task(measuring.run()))
            others = [
                group.create_task(event_feed.beat()),
                group.create_task(event_store.listen(hear, pace.listen_again)),
                group.create_task(_health(server, event_store, namespaces, pace)),
                group.create_task(_every(pace.follow, "log_not_read", event_feed.follow)),
                group.create_task(_every(pace.follow, "snapshots_not_read", snapshots.follow)),
                group.create_task(_every(pace.trim_every, "history_not_trimmed", trim)),
            ]
            yield Service(
                store=event_store,
                feed=event_feed,
                snapshots=snapshots,
                engine=engine,
                reconciler=reconciler,
                keeper=keeper,
                runner=runner,
                manager=sandboxes,
                server=server,
                port=port,
                secured=credentials is not None,
                reconciling=reconciling,
                measuring=measuring,
                leases=namespaces,
            )
            # Other replicas go on with the sandboxes while this one still answers its last calls.
            for task in working:
                task.cancel()
            await asyncio.wait(working)
            await namespaces.close()
            failpoints.hit("shutdown_handed_over")
            event_feed.close()
            snapshots.close()
            failpoints.hit("shutdown_watches_ended")
            await server.stop(pace.shutdown_grace)
            failpoints.hit("shutdown_calls_ended")
            for task in others:
                task.cancel()
        failpoints.hit("shutdown_tasks_ended")
    failpoints.hit("shutdown_closed")


async def serve(settings: Settings) -> None:
    """Runs the service until SIGTERM or SIGINT. Raises what `service` raises."""
    asyncio.get_running_loop().set_exception_handler(report)
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


def report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Logs what the event loop could raise nowhere. A connection that was lost is no failure of the service.

    When one is cut, uvloop may still write to it the end of its TLS.
    """
    error, message = context.get("exception"), context["message"]
    lost = isinstance(error, OSError) or (isinstance(error, RuntimeError) and "is closed" in str(error))
    if "transport" in context and lost:
        log.info("connection_lost", message=f"{message}: {error}")
    else:
        log.error("event_loop_failed", message=message, exc_info=error)


def _engine(settings: Settings, pace: Pace) -> engines.Engine:
    """Returns the engine of the settings, which follows no namespace yet. Imports only the package of that engine."""
    if settings.engine == "kubernetes":
        from sandbox_server.engines import kubernetes

        return kubernetes.KubernetesEngine(settings.kubernetes, pace, settings.default_image)
    from sandbox_server.engines import local

    return local.LocalEngine(settings.local, settings.data_dir, pace)


def _finder(settings: Settings, pace: Pace) -> Finder:
    """Returns what finds the sandboxes of a former system. Imports only the package of the engine of the settings."""
    if settings.engine != "kubernetes":
        return adoption.unsupported
    from sandbox_server.engines import kubernetes

    def find(namespace: str, selector: str, project: str) -> Awaitable[Sequence[Former | Unfit]]:
        return kubernetes.discover(settings.kubernetes, pace, namespace, selector, project, settings.defaults)

    return find


@asynccontextmanager
async def _page(
    settings: Settings, terminals: Sessions, authenticator: auth.Authenticator, pace: Pace
) -> AsyncIterator[str]:
    """Serves the page of terminals and yields where browsers reach it. Raises OSError if it cannot listen."""
    anyone = None if authenticator.needs_token else Tenant(settings.tenant, settings.namespace_names)
    context = None
    if settings.tls_cert and settings.tls_key:
        context = tls.context(settings.tls_cert, settings.tls_key, pace)
    page = Page(terminals, settings.access_origins, anyone, pace)
    async with page.served(settings.access_addresses, settings.access_url, context) as address:
        yield address


def _leases(
    settings: Settings, event_store: store.Store, event_feed: feed.Feed, cluster: engines.Cluster
) -> leases.Leases:
    """Returns the leases of a replica on PostgreSQL, or of a service alone on SQLite."""
    if event_store.shared:
        from sandbox_server.leases.shared import Shared

        return Shared(event_store, event_feed, cluster, settings.engine, settings.pace)
    from sandbox_server.leases.sole import Sole

    return Sole(cluster)


def _authenticator(settings: Settings, pace: Pace) -> auth.Authenticator:
    """Returns the authenticator of the settings. Raises ValueError for a bad token file."""
    if settings.token_file is not None:
        return auth.TokenFile(settings.token_file, pace)
    return auth.Anyone(Tenant(settings.tenant, settings.namespace_names))


async def _every(seconds: float, failure: str, act: Callable[[], Awaitable[None]]) -> None:
    """Calls `act` again and again. Logs `failure` if it raises a ServiceError."""
    while True:
        try:
            await act()
        except errors.ServiceError as error:
            log.warning(failure, reason=error.reason)
        await asyncio.sleep(seconds)


async def _health(server: Server, event_store: store.Store, namespaces: leases.Leases, pace: Pace) -> None:
    """Reports SERVING while the store answers, but not before a namespace was synced for the first time, by any replica.

    A namespace that is no longer synced later makes statuses stale, and calls are still served.
    """
    synced = False
    while True:
        synced = synced or namespaces.any_synced
        try:
            async with asyncio.timeout(pace.health_within):
                await event_store.read(lambda reader: reader.ping(), store.Lane.HEALTH)
        except (errors.ServiceError, TimeoutError):
            await server.serving(False)
        else:
            await server.serving(synced)
        await asyncio.sleep(pace.health_every if synced else pace.health_every / 20)
