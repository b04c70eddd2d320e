"""What a cluster asks the service by HTTP."""

import asyncio
import contextlib
import dataclasses
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from sandbox_server import metrics, monitoring
from sandbox_server.domain.phase import ConditionType, Reason
from sandbox_server.domain.sandbox import Condition, Key
from sandbox_server.domain.usage import Usage
from sandbox_server.leases import Counts

from tests.support import samples
from tests.support.ports import free_port


class Parts:
    """What a scrape and a probe read of the service."""

    def __init__(self) -> None:
        self.is_serving = False
        self.address = f"127.0.0.1:{free_port()}"

    @contextlib.contextmanager
    def served(self, by_sandbox: bool = False) -> Iterator[None]:
        calls: Any = SimpleNamespace(open={}, ended={})
        full = Condition(ConditionType.DISK_NEARLY_FULL, True, Reason.DISK_FULL_SOON, samples.NOW)
        roomy = dataclasses.replace(full, status=False)
        there = [samples.sandbox(status=samples.status(conditions=(one,))) for one in (full, full, roomy)]
        feed: Any = SimpleNamespace(catalogue=SimpleNamespace(sandboxes=lambda: there))
        reconciler: Any = SimpleNamespace(backlog=0, outcomes={})
        namespaces: Any = SimpleNamespace(any_synced=True, counts=Counts(held=2, replicas=3, failures=1))
        health = monitoring.Health(lambda: self.is_serving)
        usages = [(Key("default", "a"), Usage(1, 2, 3, 4))]
        measuring: Any = SimpleNamespace(outcomes={"": 5, "SANDBOX_NOT_REACHED": 6}, usages=lambda: usages)
        keeper: Any = SimpleNamespace(outcomes={("done", ""): 7, ("refused", "QUOTA_EXCEEDED"): 8}, verifying=1)
        runner: Any = SimpleNamespace(outcomes={"TAKEN": 9, "NOT_RUN": 10})
        service = metrics.Service(calls, feed, reconciler, keeper, runner, namespaces, measuring, by_sandbox)
        with monitoring.served(self.address, service, health):
            yield

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    async def asked(self, path: str) -> tuple[int, str]:
        return await asyncio.to_thread(self.get, path)


async def test_the_service_is_live_while_its_event_loop_answers_and_ready_while_it_is_serving() -> None:
    parts = Parts()
    with parts.served():
        assert await parts.asked("/healthz") == (200, "ok\n")
        assert await parts.asked("/readyz") == (503, "NOT_SERVING\n")
        parts.is_serving = True
        assert await parts.asked("/healthz") == (200, "ok\n")
        assert await parts.asked("/readyz") == (200, "SERVING\n")
        status, text = await parts.asked("/metrics")
        assert status == 200
        assert "sandbox_engine_in_sight 1.0" in text
        assert "sandbox_namespaces_held 2.0" in text
        assert "sandbox_replicas_alive 3.0" in text
        assert "sandbox_lease_renewals_failed_total 1.0" in text
        assert "sandbox_disks_nearly_full 2.0" in text
        assert 'sandbox_disk_measurements_total{reason=""} 5.0' in text
        assert 'sandbox_snapshot_looks_total{outcome="refused",reason="QUOTA_EXCEEDED"} 8.0' in text
        assert "sandbox_snapshots_verifying 1.0" in text
        assert 'sandbox_schedule_slots_total{outcome="TAKEN"} 9.0' in text
        assert 'sandbox_schedule_slots_total{outcome="NOT_RUN"} 10.0' in text
        assert 'sandbox_disk_measurements_total{reason="SANDBOX_NOT_REACHED"} 6.0' in text
        assert "sandbox_id" not in text


async def test_how_full_each_disk_is_is_shown_where_that_is_set() -> None:
    parts = Parts()
    with parts.served(by_sandbox=True):
        _, text = await parts.asked("/metrics")
    names = '{namespace="default",sandbox_id="a"}'
    assert [one for one in text.splitlines() if names in one] == [
        f"sandbox_disk_used_bytes{names} 1.0",
        f"sandbox_disk_capacity_bytes{names} 2.0",
        f"sandbox_disk_used_inodes{names} 3.0",
        f"sandbox_disk_capacity_inodes{names} 4.0",
    ]


async def test_an_event_loop_that_is_blocked_is_neither_live_nor_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "PROBE_MOST", 0.05)
    parts = Parts()
    parts.is_serving = True
    found: dict[str, tuple[int, str]] = {}

    def ask() -> None:
        found.update({path: parts.get(path) for path in ("/healthz", "/readyz")})

    with parts.served():
        asking = threading.Thread(target=ask)
        asking.start()
        # On purpose on the event loop.
        asking.join()
        told = "the event loop has not answered for 0.05 s\n"
        assert found == {"/healthz": (503, told), "/readyz": (503, told)}
        # Both pass again as soon as it answers, on a machine that is as slow as it may be.
        monkeypatch.setattr(monitoring, "PROBE_MOST", 60)
        assert await parts.asked("/readyz") == (200, "SERVING\n")


async def test_a_slow_request_keeps_no_probe_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(_service: metrics.Service) -> list[Any]:
        time.sleep(1)
        return []

    monkeypatch.setattr(metrics.Service, "collect", slow)
    parts = Parts()
    with parts.served():
        scrape = asyncio.create_task(parts.asked("/metrics"))
        await asyncio.sleep(0.1)
        assert await parts.asked("/healthz") == (200, "ok\n")
        assert not scrape.done()
        assert (await scrape)[0] == 200


@pytest.mark.parametrize("path", ["/", "/readyz/", "/ready", "/favicon.ico"])
async def test_an_unknown_path_is_not_found_so_that_a_mistyped_probe_fails(path: str) -> None:
    parts = Parts()
    with parts.served():
        assert await parts.asked(path) == (404, "ask for /metrics, /healthz or /readyz\n")


async def test_an_address_that_is_taken_is_named() -> None:
    parts = Parts()
    with (
        parts.served(),
        pytest.raises(OSError, match=f"metrics-listen: {parts.address} cannot be had: .*in use"),
        parts.served(),
    ):
        pass
