"""The leases of a replica that shares its database with others.

Every replica renews its leases, and looks at those of the others, once in `Pace.lease_every`. A replica that is stopped or
cut off from the database holds nothing any more shortly before `Pace.lease` has passed since it last asked for a renewal, by
its own monotonic clock, which is before the database lets another replica take over.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import structlog

from sandbox_server import engines, failpoints, feed, leases, store
from sandbox_server.domain import errors
from sandbox_server.domain.lease import Lease, Replica, Sight
from sandbox_server.domain.pace import Pace
from sandbox_server.leases import Counts

log = structlog.get_logger()

SURE = 0.95
"""The part of a lease that its holder relies on. The clock of the database can be set forward by the rest without notice."""


@dataclass(frozen=True, slots=True)
class _Held:
    epoch: int
    until: float


class Shared:
    """See `leases.Leases`. Times are of `time.monotonic`."""

    def __init__(
        self, event_store: store.Store, event_feed: feed.Feed, cluster: engines.Cluster, engine: str, pace: Pace
    ) -> None:
        """`engine` is the name of the engine. Replicas with the local engine do not share: its sandboxes are of one machine."""
        self._store = event_store
        self._feed = event_feed
        self._cluster = cluster
        self._engine = engine
        self._pace = pace
        self._served: frozenset[str] = frozenset()
        self._followed: frozenset[str] = frozenset()
        self._held: dict[str, _Held] = {}
        self._leases: Mapping[str, Lease] = {}
        self._read_at = 0.0
        self._awaited = 0
        """A sequence that the log had at `_awaited_at`, and that the feed may not have read yet."""
        self._awaited_at = 0.0
        self._said: dict[str, Sight] = {}
        self._listeners: list[Callable[[Collection[str]], None]] = []
        self._woken = asyncio.Event()
        self._cut_off = False
        self._observed_at = time.monotonic()
        self._clock = store.Clock(pace.lease)
        self._replicas = 0
        self._understood = False
        self._failures = 0
        self._incomplete = False
        """Whether a namespace of this replica's share is free and could not be taken."""

    def on_taken(self, listener: Callable[[Collection[str]], None]) -> None:
        """See `leases.Leases`."""
        self._listeners.append(listener)

    def serve(self, namespaces: Iterable[str]) -> None:
        """Has the next turn share these namespaces with the other replicas, and makes it the next thing to do."""
        self._served = frozenset(namespaces)
        self.wake()

    def wake(self) -> None:
        """See `leases.Leases`."""
        self._woken.set()

    def held(self, namespace: str) -> int:
        """See `leases.Leases`."""
        held = self._held.get(namespace)
        return 0 if held is None or held.until <= time.monotonic() else held.epoch

    def synced(self, namespace: str) -> bool:
        """See `leases.Leases`. A holder that is gone observes nothing, nor does a replica show it whose feed is behind."""
        lease = self._leases.get(namespace)
        return lease is not None and self._sees(lease)

    @property
    def any_synced(self) -> bool:
        """See `leases.Leases`."""
        return any(self._sees(lease) for lease in self._leases.values())

    @property
    def counts(self) -> Counts:
        """See `leases.Leases`."""
        return Counts(sum(self.held(name) > 0 for name in self._held), self._replicas, self._failures)

    @property
    def understood(self) -> bool:
        """See `leases.Leases`. One that has joined since this replica last looked, a moment ago, is not known yet."""
        return self._understood

    def _sees(self, lease: Lease) -> bool:
        now = time.monotonic()
        # What a holder has recorded must have been read here as well.
        behind = self._feed.sequence < self._awaited and now - self._awaited_at > self._pace.stale_after
        return lease.sight.synced and lease.remaining > now - self._read_at and not behind

    async def readable(self, namespace: str) -> bool | None:
        """Asks the engine about a namespace that is held; of others, returns what their holder has said."""
        if namespace in self._followed:
            return await leases.readable(self._cluster, namespace)
        lease = self._leases.get(namespace)
        return None if lease is None else lease.sight.readable

    @property
    def _me(self) -> Replica:
        return Replica(self._store.name, self._engine, self._served, self._cut_off, documents=store.DOCUMENTS)

    async def open(self) -> None:
        """Waits while another service that cannot share the database may still be alive. Raises OSError if it is."""
        patience = time.monotonic() + 2 * self._pace.lease
        while True:
            try:
                await self._store.leasing(store.leases.join, self._me, self._pace.lease)
                return
            except store.leases.Rivals as rivals:
                if time.monotonic() > patience:
                    raise _excluded(rivals) from None
            await asyncio.sleep(self._pace.lease / 10)

    async def run(self) -> None:
        """See `leases.Leases`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep())
            tasks.create_task(self._examine())

    async def _examine(self) -> None:
        """Looks at each namespace that is held, once, so that the others know as well whether it can be looked at.

        A replica that is cut off from the cluster asks until there is an answer.
        """
        while True:
            for namespace in self._followed:
                await leases.readable(self._cluster, namespace)
            if self._cut_off and await self._cluster.reachable():
                log.info("cluster_reached")
                self._cut_off, self._observed_at = False, time.monotonic()
                self.wake()
            await asyncio.sleep(self._pace.lease_every)

    def _look_out(self) -> None:
        """Leaves this replica's share to the others once it has observed nothing of it for a while, although nobody refuses it.

        Where all replicas are cut off, each keeps its share: see `lease.shares`.
        """
        now = time.monotonic()
        silent = [
            one for one in self._followed if not self._cluster.synced(one) and not self._cluster.unobservable(one)
        ]
        if not self._followed or len(silent) < len(self._followed):
            self._observed_at = now
        elif not self._cut_off and now - self._observed_at > self._pace.cut_off_after:
            log.warning("cluster_not_reached", namespaces=len(silent))
            self._cut_off = True
            self.wake()

    async def _keep(self) -> None:
        due = time.monotonic()
        while True:
            self._look_out()
            if self._woken.is_set() or time.monotonic() >= due or self._news():
                self._woken.clear()
                # What ends meanwhile can be taken at once.
                due = time.monotonic() + min([self._pace.lease_every, *self._endings()])
                try:
                    await self._turn()
                except errors.Unavailable:
                    # The store has said why. What is held ends by itself.
                    self._failures += 1
                    await asyncio.sleep(self._pace.lease_every)
                except store.leases.Rivals as rivals:
                    raise _excluded(rivals) from None
                if self._incomplete:
                    due = time.monotonic()
            await self._pause()

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pace.sync_check_every):
                await self._woken.wait()

    def _endings(self) -> list[float]:
        """Returns the seconds until each lease of others that can be taken then."""
        passed = time.monotonic() - self._read_at
        left = (
            one.remaining - passed for one in self._leases.values() if one.namespace not in self._held and one.holder
        )
        return [seconds for seconds in left if seconds > 0]

    def _sights(self) -> dict[str, Sight]:
        """Returns what there is to say of each namespace that is held."""
        sights = {}
        for namespace in self._held:
            fault = self._cluster.unobservable(namespace)
            readable = self._cluster.readable(namespace)
            sights[namespace] = Sight(self._cluster.synced(namespace), fault.message if fault else "", readable)
        return sights

    def _news(self) -> dict[str, Sight]:
        """Returns what has changed of that since the others were told."""
        return {name: sight for name, sight in self._sights().items() if self._said.get(name) != sight}

    async def _turn(self) -> None:
        """Renews, takes and gives up leases."""
        asked, read = time.monotonic(), self._feed.sequence
        news = self._news()
        live = self._feed.catalogue.namespaces()
        standing = await self._store.leasing(store.leases.turn, self._clock, self._me, self._pace.lease, news, live)
        failpoints.hit("leases_after_commit")
        if standing.sequence < read:
            raise OSError(
                f"database-url: the database has lost what it had committed: its log ends at {standing.sequence}, and events up "
                f"to {read} were read. This process ends, to read everything anew when it is started again"
            )
        self._leases, self._read_at = standing.leases, asked
        self._replicas = len(standing.replicas)
        self._understood = all(one.documents >= store.DOCUMENTS for one in standing.replicas)
        if self._feed.sequence >= self._awaited:
            self._awaited, self._awaited_at = standing.sequence, asked
        self._said |= news
        mine = {name: one for name, one in standing.leases.items() if one.holder == self._store.name}
        kept = {name: one for name, one in mine.items() if name in standing.share}
        self._incomplete = any(
            name not in standing.leases or standing.leases[name].remaining <= 0 for name in standing.share
        )
        # A lease that ended is taken anew even if nobody else has had it: its sandboxes were dropped meanwhile.
        self._let_go({name for name in self._held if name not in kept or self.held(name) != kept[name].epoch})
        taken = kept.keys() - self._held.keys()
        # Before anything is waited for: what ends in the middle is not taken anew.
        for name in self._held:
            self._held[name] = _Held(kept[name].epoch, asked + SURE * self._pace.lease)
        self._follow(self._served & kept.keys())
        if given_up := mine.keys() - kept.keys():
            failpoints.hit("leases_before_give_up")
            await self._store.leasing(store.leases.give_up, self._store.name, given_up)
        if taken and await self._caught_up(standing.sequence):
            for name in sorted(taken):
                log.info("namespace_taken", namespace=name, epoch=kept[name].epoch)
                self._held[name] = _Held(kept[name].epoch, asked + SURE * self._pace.lease)
            for listener in self._listeners:
                listener(taken)
            failpoints.hit("leases_taken")

    async def _caught_up(self, sequence: int) -> bool:
        """Returns whether the feed has read `sequence`: what a former holder has written is decided on, and nothing older.

        Waits for it until the leases must be renewed. Those that were taken are then looked at again in the next turn.
        """
        self._feed.announce(sequence)
        try:
            async with asyncio.timeout(self._pace.lease_every):
                await self._feed.arrived(sequence)
        except TimeoutError:
            log.warning("feed_is_behind", sequence=self._feed.sequence, log=sequence)
            return False
        return True

    def _follow(self, namespaces: frozenset[str]) -> None:
        """Has the engine observe these namespaces. Those of no tenant are held and not observed, and their status says so."""
        if namespaces != self._followed:
            self._followed = namespaces
            self._cluster.follow(namespaces)

    def _let_go(self, namespaces: set[str]) -> None:
        for name in sorted(namespaces):
            log.info("namespace_let_go", namespace=name, epoch=self._held[name].epoch)
            del self._held[name]
            self._said.pop(name, None)

    async def close(self) -> None:
        """See `leases.Leases`. Where the database does not answer, the leases end by themselves."""
        self._let_go(set(self._held))
        with contextlib.suppress(errors.Unavailable, TimeoutError):
            async with asyncio.timeout(self._pace.lease):
                await self._store.leasing(store.leases.leave, self._store.name)


def _excluded(rivals: store.leases.Rivals) -> OSError:
    return OSError(
        f"database-url: another service uses it with engine={rivals.engines[0]}: stop that one, or give this one "
        "another database. Several replicas need engine=kubernetes, all of them"
    )
