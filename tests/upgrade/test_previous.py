"""This release replaces the previous one, which git has: replica by replica if the newest migration lets it run on, or alone.

Which of the two it is, `compatibility.oldest` says in a database with the schema of this release.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server import store

from tests.support.waiting import PATIENCE
from tests.upgrade import releases, rolling
from tests.upgrade.load import Load
from tests.upgrade.replicas import NAMESPACES, Replicas


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> releases.Release:
    return releases.previous(tmp_path_factory.mktemp("releases") / "previous")


@pytest.fixture
def compatible(previous: releases.Release, tmp_path: Path) -> bool:
    """Whether the previous release may use the schema of this one."""
    store.migrate(f"sqlite:///{tmp_path}/sandbox.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "sandbox.db")) as database:
        (oldest,) = database.execute("SELECT oldest FROM compatibility").fetchone()
    return previous.knows(oldest)


@pytest.mark.fault(77)
async def test_previous_release_that_may_run_on_is_replaced_one_by_one(
    replicas: Replicas, previous: releases.Release, compatible: bool
) -> None:
    if not compatible:
        pytest.skip("the newest migration locks the previous release out")
    await rolling.roll(replicas, previous, releases.present())


@pytest.mark.fault(40)
async def test_previous_release_that_is_locked_out_is_stopped_first_and_leaves_everything_to_this_one(
    replicas: Replicas, previous: releases.Release, compatible: bool
) -> None:
    if compatible:
        pytest.skip("the newest migration lets the previous release run on")
    present = releases.present()
    await replicas.migrate(previous)
    await replicas.add(previous)
    (old,) = replicas.places
    load = Load([old.address])
    try:
        for namespace in NAMESPACES:
            for name in ("busy", "quiet"):
                await load.create(namespace, f"{name}-{namespace}")
        for namespace in NAMESPACES[:2] * 3:
            await load.change(namespace, f"busy-{namespace}")
        sandboxes, events = await answers(load)
        pods = replicas.pods()
        assert "run `sandbox-server migrate`" in await replicas.refused(present)
        await replicas.terminate(old)
    finally:
        await load.close()

    migrated = await replicas.migrate(present)
    assert migrated.returncode == 0, migrated.stderr
    assert "run the newer release" in await replicas.refused(previous)
    assert (await replicas.migrate(previous)).returncode != 0

    replicas.places.clear()
    await replicas.add(present, rolling.COUNT)
    await replicas.shared()
    again = Load([one.address for one in replicas.places])
    again.requests = load.requests
    try:
        there, told = await answers(again)
        assert_contains(there, sandboxes)
        assert_contains(told[: len(events)], events)
        assert replicas.pods() == pods
        again.start(rolling.WATCHES)
        await asyncio.sleep(3)
        await again.end()
        await rolling.check(replicas, again)
        assert not load.violations, load.violations
    finally:
        await again.close()


async def answers(load: Load) -> tuple[list[Any], list[Any]]:
    """Returns all sandboxes, once they run, and all events."""
    found = await load.settled()
    last = await load.sequence()
    events: list[Message] = []
    stub = next(iter(load.stubs.values()))
    async with asyncio.timeout(20 * PATIENCE):
        async for event in stub.WatchStatus(pb.WatchStatusRequest(after_sequence=0)):
            if event.HasField("status"):
                events.append(event)
            if event.sequence >= last:
                break
    return shown(found), shown(events)


def shown(messages: Sequence[Message]) -> list[Any]:
    return [MessageToDict(one) for one in messages]


def assert_contains(answer: Any, former: Any) -> None:
    """A newer release may say more than the former one, and nothing else."""
    if isinstance(former, dict):
        assert former.keys() <= answer.keys()
        for name, value in former.items():
            assert_contains(answer[name], value)
    elif isinstance(former, list):
        assert len(answer) == len(former)
        for one, other in zip(answer, former, strict=True):
            assert_contains(one, other)
    else:
        assert answer == former
