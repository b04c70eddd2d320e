"""Random traffic over the service on SQLite with the local engine."""

import asyncio
from collections.abc import Callable

import pytest

from tests.robustness import run
from tests.robustness.local import Local
from tests.support.marked import end_programs
from tests.support.service import Service


@pytest.mark.timeout(int(run.MINUTES * 60) + 400)
def test_service_on_sqlite_keeps_every_promise_under_random_faults(make_service: Callable[..., Service]) -> None:
    service = make_service("--resync", "5").start()
    local = Local(service, run.chooser("local"))
    try:
        asyncio.run(run.go(local))
    finally:
        end_programs()
    assert local.disks.born
