"""The reconciler notices what no wake-up reports: at the resync, and when a namespace is synced again."""

import asyncio
import dataclasses
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sandbox_server import engines, feed, store
from sandbox_server.domain import lifecycle
from sandbox_server.domain.event import Cause, Kind
from sandbox_server.domain.observed import Fault, Observed
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.leases.sole import Sole
from sandbox_server.reconciler.reconciler import Reconciler
from sandbox_server.rpc import render

from tests.support import samples
from tests.support.obedient import ObedientEngine

TOUCH_EVERY = 0.4


class SilentEngine:
    """An engine that obeys and reports no change."""

    def __init__(self) -> None:
        self.world = ObedientEngine(Observed())
        self.sighted = True
        self.why: Fault | None = None
        self.fails: Exception | None = None
        self.acting = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.touches = 0

    def synced(self, _namespace: str) -> bool:
        return self.sighted

    def unobservable(self, _namespace: str) -> Fault | None:
        return self.why

    def observe(self, _sandbox: Sandbox) -> Observed:
        return self.world.observe()

    async def apply(self, sandbox: Sandbox, _env: Any, replicas: int) -> int:
        fails = self.fails
        self.acting.set()
        await self.goes_on.wait()
        if fails is not None:
            raise fails
        return self.world.act(sandbox, lifecycle.Apply(replicas))

    async def examine(self, _namespace: str) -> None:
        pass

    def leftovers(self, _key: Key, _living: Sandbox | None) -> set[str]:
        return set()

    async def remove_superseded(self, _sandbox: Sandbox) -> None:
        pass

    async def touch(self, sandbox: Sandbox) -> int:
        self.touches += 1
        return sandbox.applied_revision


class Silence:
    """A reconciler without wake-ups, over one sandbox."""

    def __init__(self, folder: Path) -> None:
        self.engine = SilentEngine()
        self.database, self.other = (store.Store(f"sqlite:///{folder}/a.db", store.Cipher([b"k" * 32])) for _ in "ab")
        self.memory = feed.Feed(self.database, render.Encoder(), Pace(heartbeat=60))

    async def run(self, resync: float, now: Callable[[], datetime] = lambda: samples.NOW) -> None:
        await self.start(resync, now)
        self.key = (await self.database.write(lambda _: samples.new(samples.sandbox()))).sandbox.key

    async def start(self, resync: float, now: Callable[[], datetime] = lambda: samples.NOW) -> None:
        engine: Any = self.engine
        pace = Pace(resync=resync, start_deadline=60, touch_every=TOUCH_EVERY)
        self.reconciler = Reconciler(self.memory, self.database, engine, Sole(engine), 1, pace, now)
        self.task = asyncio.create_task(self.reconciler.run())

    def stopped(self, reader: store.Reader) -> store.Write:
        """The mutation that stops it."""
        last = reader.last(self.key)
        assert last is not None
        changed = samples.next_generation(last.sandbox, desired=DesiredState.STOPPED)
        cause = Cause(Kind.MUTATION, changed.tenant)
        return store.Write(lifecycle.on_mutation(changed, samples.NOW), last.sequence, cause)

    async def until(self, holds: Callable[[Sandbox], bool]) -> None:
        async with asyncio.timeout(30):
            while (last := self.memory.catalogue.get(self.key)) is None or not holds(last.event.sandbox):
                await asyncio.sleep(0.01)

    async def counts(self, outcome: str) -> None:
        """Returns once a pass has had this outcome."""
        async with asyncio.timeout(30):
            while self.reconciler.outcomes[outcome, ""] == 0:
                await asyncio.sleep(0.01)


def most(began: float) -> int:
    """The most passes since then that fail one after the other: each delay is half of a doubled `retry_first` at least."""
    return 3 + int(math.log2(1 + (time.monotonic() - began) / (Pace.retry_first / 2)))


@pytest.fixture
async def silence(tmp_path: Path) -> AsyncIterator[Silence]:
    made = Silence(tmp_path)
    await made.database.open(made.memory.publish)
    await made.other.open(lambda _: None)
    yield made
    made.task.cancel()
    await asyncio.gather(made.task, return_exceptions=True)
    await made.other.close()
    await made.database.close()


async def test_change_without_a_wake_up_is_observed_at_the_next_resync(silence: Silence) -> None:
    await silence.run(resync=0.05)
    await silence.until(lambda one: one.applied_generation == 1)
    while silence.engine.world.step():
        pass
    await silence.until(lambda one: one.status.phase is Phase.RUNNING)
    silence.engine.world.pod = dataclasses.replace(silence.engine.world.pod, restart_count=3)  # type: ignore[type-var]
    await silence.until(lambda one: one.status.restart_count == 3)


@pytest.mark.slow
async def test_sandboxes_of_a_newly_synced_namespace_are_reconciled_at_once_and_others_say_why_not(
    silence: Silence,
) -> None:
    silence.engine.sighted = False
    await silence.run(resync=3600)
    await asyncio.sleep(0.3)
    assert silence.memory.catalogue.get(silence.key).event.sandbox.status.reason is Reason.ACCEPTED  # type: ignore[union-attr]
    for words in ("one right", "another"):
        silence.engine.why = Fault(Reason.CLUSTER_FORBIDDEN, words)
        await silence.until(lambda one: one.status.message == words)  # noqa: B023
    silence.engine.sighted, silence.engine.why = True, None
    await silence.until(lambda one: one.applied_generation == 1)


@pytest.mark.fault(41)
async def test_a_wall_clock_that_steps_by_an_hour_leaves_the_order_and_what_runs_alone(silence: Silence) -> None:
    hours = itertools.cycle((0, 1, 0, -1, 2))
    await silence.run(resync=0.02, now=lambda: samples.NOW + timedelta(hours=next(hours)))
    await silence.until(lambda one: one.applied_generation == 1)
    while silence.engine.world.step():
        pass
    await silence.until(lambda one: one.status.phase is Phase.RUNNING)
    sequence = silence.memory.sequence
    await asyncio.sleep(0.2)
    assert silence.memory.sequence == sequence
    assert [one.sequence for one in await silence.database.events(0, sequence + 1)] == list(range(1, sequence + 1))


@pytest.mark.fault(29)
@pytest.mark.parametrize("when", ["before the mutation", "during the mutation"])
async def test_refusal_of_one_mutation_is_not_reported_for_the_next(silence: Silence, when: str) -> None:
    engine, late = silence.engine, when == "during the mutation"
    engine.fails = engines.Refused(Fault(Reason.ADMISSION_DENIED, "no"))
    if late:
        engine.goes_on.clear()
    await silence.run(resync=3600)
    await engine.acting.wait()
    if not late:
        await silence.until(lambda one: one.status.phase is Phase.ERROR)
    engine.fails = None
    await silence.database.write(silence.stopped)
    engine.goes_on.set()
    await silence.until(lambda one: one.applied_generation == 2)
    log = await silence.database.events(0, 100)
    assert [one for one in log if one.sandbox.generation == 2 and one.sandbox.status.phase is Phase.ERROR] == []


@pytest.mark.fault(32)
async def test_repeated_refusal_of_the_engine_is_one_event(silence: Silence) -> None:
    silence.engine.fails = engines.Refused(Fault(Reason.QUOTA_EXCEEDED, "no"))
    await silence.run(resync=0.02)
    await silence.until(lambda one: one.status.phase is Phase.ERROR)
    sequence = silence.memory.sequence
    await asyncio.sleep(0.3)
    assert silence.memory.sequence == sequence


@pytest.mark.fault(11)
@pytest.mark.slow
async def test_act_on_what_has_changed_since_is_decided_again_and_reported_as_no_error(silence: Silence) -> None:
    silence.engine.fails = engines.Outdated("the StatefulSet has changed")
    began = time.monotonic()
    await silence.run(resync=3600)
    await silence.counts("outdated")
    await asyncio.sleep(0.5)
    assert silence.reconciler.outcomes["outdated", ""] <= most(began)
    silence.engine.fails = None
    await silence.until(lambda one: one.applied_generation == 1)
    log = await silence.database.events(0, 100)
    assert {one.sandbox.status.phase for one in log} <= {Phase.CREATING, Phase.STARTING}


@pytest.mark.fault(10)
async def test_a_mutation_that_another_replica_took_is_waited_for_without_a_hot_loop(silence: Silence) -> None:
    await silence.run(resync=3600)
    await silence.until(lambda one: one.applied_generation == 1)
    await silence.other.write(silence.stopped)
    silence.engine.world.step()
    began = time.monotonic()
    silence.reconciler.wake(silence.key)
    await silence.counts("stale")
    await asyncio.sleep(0.5)
    assert silence.reconciler.outcomes["stale", ""] <= most(began)
    await silence.memory.follow()
    await silence.until(lambda one: one.applied_generation == 2)


@pytest.mark.fault(22)
async def test_pod_that_is_ready_again_is_reported_despite_another_failure(silence: Silence) -> None:
    world = silence.engine.world
    await silence.run(resync=0.02)
    await silence.until(lambda one: one.applied_generation == 1)
    while world.step():
        pass
    await silence.until(lambda one: one.status.phase is Phase.RUNNING)
    ready, workload = world.pod, world.workload
    assert ready is not None
    assert workload is not None
    world.pod = dataclasses.replace(ready, ready=False, reason=Reason.CRASH_LOOP)
    await silence.until(lambda one: one.status.phase is Phase.ERROR)
    silence.engine.fails = engines.Unreachable("no answer")
    world.workload = dataclasses.replace(workload, revision=workload.revision + 1)
    world.pod = ready
    await silence.until(lambda one: one.status.phase is Phase.RUNNING)


async def test_mutation_wakes_the_reconciler_whatever_the_reason_of_the_status(silence: Silence) -> None:
    await silence.run(resync=3600)
    await silence.until(lambda one: one.applied_generation == 1)
    last = silence.memory.catalogue.get(silence.key)
    assert last is not None
    changed = samples.mutated(last.event, status=samples.status(reason=Reason.READY))
    cause = Cause(Kind.MUTATION, "default")
    await silence.database.write(lambda _: store.Write(changed.sandbox, changed.sequence, cause))
    await silence.until(lambda one: one.applied_generation == 2)


@pytest.mark.parametrize("answer", [engines.Refused(Fault(Reason.QUOTA_EXCEEDED, "no")), engines.Unreachable("none")])
async def test_restart_reports_no_end_of_an_error_before_its_act_was_tried_again(
    silence: Silence, answer: Exception
) -> None:
    silence.engine.fails = engines.Refused(Fault(Reason.QUOTA_EXCEEDED, "no"))
    await silence.run(resync=3600)
    await silence.until(lambda one: one.status.phase is Phase.ERROR)
    silence.task.cancel()
    await asyncio.gather(silence.task, return_exceptions=True)
    sequence = silence.memory.sequence
    silence.engine.fails = answer
    await silence.start(resync=0.02)
    await asyncio.sleep(0.3)
    assert silence.memory.sequence == sequence
    silence.engine.fails = None
    await silence.until(lambda one: one.applied_generation == 1 and one.status.phase is Phase.STARTING)


async def test_refusal_stays_while_the_engine_gives_no_answer(silence: Silence) -> None:
    silence.engine.fails = engines.Refused(Fault(Reason.QUOTA_EXCEEDED, "no"))
    await silence.run(resync=0.02)
    await silence.until(lambda one: one.status.phase is Phase.ERROR)
    sequence = silence.memory.sequence
    silence.engine.fails = engines.Unreachable("no answer")
    await asyncio.sleep(0.3)
    assert silence.memory.sequence == sequence


@pytest.mark.slow
async def test_refusal_outlives_a_time_in_which_the_namespace_cannot_be_observed(silence: Silence) -> None:
    silence.engine.fails = engines.Refused(Fault(Reason.QUOTA_EXCEEDED, "no"))
    await silence.run(resync=0.02)
    await silence.until(lambda one: one.status.reason is Reason.QUOTA_EXCEEDED)
    silence.engine.sighted, silence.engine.why = False, Fault(Reason.CLUSTER_FORBIDDEN, "a right")
    await silence.until(lambda one: one.status.reason is Reason.CLUSTER_FORBIDDEN)
    sequence = silence.memory.sequence
    silence.engine.sighted, silence.engine.why = True, None
    await silence.until(lambda one: one.status.reason is Reason.QUOTA_EXCEEDED)
    since = await silence.database.events(sequence, 100)
    assert {one.sandbox.status.phase for one in since} == {Phase.ERROR}


@pytest.mark.find(14)
@pytest.mark.slow
async def test_controller_has_its_time_again_when_another_pod_is_missing(silence: Silence) -> None:
    engine = silence.engine
    await silence.run(resync=0.02)
    await silence.until(lambda one: one.applied_generation == 1)
    # The pod is missing at first, and the time until a touch begins.
    await asyncio.sleep(TOUCH_EVERY / 4)
    while engine.world.step():
        pass
    await silence.until(lambda one: one.status.phase is Phase.RUNNING)
    await asyncio.sleep(TOUCH_EVERY)
    touches, began = engine.touches, time.monotonic()
    engine.world.pod = None
    async with asyncio.timeout(30):
        while engine.touches == touches:
            await asyncio.sleep(0.01)
    assert time.monotonic() - began >= TOUCH_EVERY


async def test_sandbox_that_has_ended_is_forgotten(silence: Silence) -> None:
    await silence.run(resync=3600)
    await silence.until(lambda one: one.applied_generation == 1)
    last = silence.memory.catalogue.get(silence.key)
    assert last is not None
    assert silence.key in silence.reconciler._passes._memories
    ended = samples.changed(last.event, status=samples.status(phase=Phase.TERMINATED, reason=Reason.DELETED))
    await silence.database.write(lambda _: samples.write(ended, {}))
    assert silence.reconciler._passes._memories == {}
