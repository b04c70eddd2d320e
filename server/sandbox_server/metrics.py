"""The metrics of the service, for Prometheus. The parts of the service keep counters, which are read at a scrape."""

import asyncio
import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.registry import Collector

from sandbox_server import VERSION, feed
from sandbox_server.access.measuring import Measuring
from sandbox_server.domain.phase import ConditionType
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.usage import Usage
from sandbox_server.leases import Leases
from sandbox_server.reconciler.reconciler import Reconciler
from sandbox_server.rpc.calls import Calls
from sandbox_server.schedules.runner import Runner
from sandbox_server.snapshots.keeper import Keeper

READ_MOST = 5.0
"""Seconds that the event loop may take to answer a scrape."""
_DISKS: tuple[tuple[str, str, Callable[[Usage], int]], ...] = (
    ("disk_used_bytes", "Bytes used of the disk of a sandbox", attrgetter("used")),
    ("disk_capacity_bytes", "Bytes that the disk of a sandbox has", attrgetter("capacity")),
    ("disk_used_inodes", "Inodes used of the disk of a sandbox", attrgetter("used_inodes")),
    ("disk_capacity_inodes", "Inodes that the disk of a sandbox has; 0: as many as it needs", attrgetter("inodes")),
)


class Service(Collector):
    """Reads the metrics on the event loop, for the thread that serves them."""

    def __init__(
        self,
        calls: Calls,
        event_feed: feed.Feed,
        reconciler: Reconciler,
        keeper: Keeper,
        runner: Runner,
        leases: Leases,
        measuring: Measuring,
        by_sandbox: bool,
    ) -> None:
        """`by_sandbox`: whether to show how full the disk of each sandbox is. All else has labels of few values.

        Must be called on the event loop.
        """
        self._loop = asyncio.get_running_loop()
        self._calls = calls
        self._feed = event_feed
        self._reconciler = reconciler
        self._keeper = keeper
        self._runner = runner
        self._leases = leases
        self._measuring = measuring
        self._by_sandbox = by_sandbox

    def collect(self) -> Iterable[Metric]:
        """Returns every metric, all of the same moment. Raises TimeoutError if the loop does not answer in time."""

        async def read() -> list[Metric]:
            return list(self._read())

        return asyncio.run_coroutine_threadsafe(read(), self._loop).result(READ_MOST)

    def _read(self) -> Iterator[Metric]:
        open_calls = {(method,): count for method, count in self._calls.open.items()}
        there = self._feed.catalogue.sandboxes()
        sandboxes = collections.Counter((one.status.phase.name, one.status.reason.name) for one in there)
        waiting = {(): self._reconciler.backlog}
        synced = {(): self._leases.any_synced}
        counts = self._leases.counts
        yield _family(Gauge, "build_info", "1, with the version of the service", {(VERSION,): 1}, "version")
        yield _family(Counter, "calls", "Calls that ended", self._calls.ended, "method", "code", "reason")
        yield _family(Gauge, "calls_open", "Calls and streams under way", open_calls, "method")
        yield _family(Gauge, "sandboxes", "Sandboxes that are not TERMINATED", sandboxes, "phase", "reason")
        yield _family(Counter, "reconciles", "Passes over a sandbox", self._reconciler.outcomes, "outcome", "reason")
        yield _family(Gauge, "reconciles_waiting", "Sandboxes that wait for a worker or have one", waiting)
        yield _family(Counter, "snapshot_looks", "Looks at a snapshot", self._keeper.outcomes, "outcome", "reason")
        yield _family(Gauge, "snapshots_verifying", "Snapshots with a scratch here", {(): self._keeper.verifying})
        slots = {(outcome,): count for outcome, count in self._runner.outcomes.items()}
        yield _family(
            Counter, "schedule_slots", "Slots of sandboxes that were worked, TAKEN or missed", slots, "outcome"
        )
        yield _family(Gauge, "engine_in_sight", "1 while at least one namespace can be observed, else 0", synced)
        yield _family(Gauge, "namespaces_held", "Namespaces that this replica reconciles", {(): counts.held})
        yield _family(Gauge, "replicas_alive", "Live replicas, as this one last saw them", {(): counts.replicas})
        yield _family(
            Counter,
            "lease_renewals_failed",
            "Renewals of the leases that the database did not answer",
            {(): counts.failures},
        )
        full = sum((ConditionType.DISK_NEARLY_FULL, True) in _conditions(one) for one in there)
        measured = {(reason,): count for reason, count in self._measuring.outcomes.items()}
        yield _family(Gauge, "disks_nearly_full", "Sandboxes with the condition DISK_NEARLY_FULL", {(): full})
        yield _family(Counter, "disk_measurements", "Measurements of disks, by why they failed", measured, "reason")
        if self._by_sandbox:
            yield from self._disks()

    def _disks(self) -> Iterator[Metric]:
        """Yields four numbers of each sandbox whose disk this replica has measured last."""
        usages = list(self._measuring.usages())
        for name, description, value in _DISKS:
            values = {key: value(usage) for key, usage in usages}
            yield _family(Gauge, name, description, values, "namespace", "sandbox_id")


def _conditions(sandbox: Sandbox) -> Iterator[tuple[ConditionType, bool | None]]:
    return ((one.type, one.status) for one in sandbox.status.conditions)


def _family(
    kind: type[Counter | Gauge], name: str, description: str, values: Mapping[Any, float], *labels: str
) -> Metric:
    family = kind(f"sandbox_{name}", description, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def registry(service: Service) -> CollectorRegistry:
    """Returns what a scrape reads: the metrics of the service and of its process."""
    made = CollectorRegistry()
    made.register(service)
    ProcessCollector(registry=made)
    return made
