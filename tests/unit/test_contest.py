"""The fault of acts that somebody undoes each time, and when they may be repeated."""

import asyncio
import dataclasses
import json
from typing import Any

import pytest
from sandbox_server import engines
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Key
from sandbox_server.engines.kubernetes.contest import Contest, Contests
from sandbox_server.engines.kubernetes.objects import OBJECT, Object
from sandbox_server.engines.kubernetes.resources import Kind, Reference

from tests.support import samples

pytestmark = [pytest.mark.find(21), pytest.mark.fault(67)]
KEY = Key("default", "demo-1")
REFERENCE = Reference(Kind.SERVICE, "default", "demo-1-service")
PORT = 'k:{"port":80}'
OURS = {"f:spec": {"f:ports": {PORT: {".": {}, "f:name": {}}}, "f:clusterIP": {}}}


def entry(manager: str, fields: dict[str, Any], operation: str = "Update") -> dict[str, Any]:
    return {"manager": manager, "operation": operation, "fieldsV1": fields}


def found(*entries: dict[str, Any], uid: str = "u") -> Object:
    return OBJECT.decode(json.dumps({"metadata": {"name": "demo-1-service", "uid": uid, "managedFields": entries}}))


MADE = found(entry("sandbox-service", OURS, "Apply"))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def contests(clock: Clock) -> Contests:
    return Contests(lambda _key: None, Pace(), clock)


def act(of: Contests, shown: Object | None) -> Contest:
    contest = of.begin(KEY, (1, 1))
    if contest.watched:
        contest.compare(REFERENCE, shown)
    contest.written(REFERENCE, MADE)
    of.done(KEY, contest)
    return contest


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (
            found(
                entry("sandbox-service", {"f:spec": {"f:clusterIP": {}, "f:ports": {PORT: {".": {}}}}}, "Apply"),
                entry("theirs", {"f:spec": {"f:ports": {PORT: {"f:name": {}}}}}),
                entry("other", {"f:status": {}}),
            ),
            'theirs changes spec.ports[{"port":80}].name of the Service demo-1-service each time the service sets it',
        ),
        (None, "somebody removes the Service demo-1-service each time the service makes it"),
        # A field that is owned by another as well is not undone.
        (found(entry("sandbox-service", OURS, "Apply"), entry("theirs", OURS)), None),
    ],
    ids=["changed", "removed", "shared"],
)
async def test_managers_are_those_of_the_fields_that_the_service_lost(shown: Object | None, words: str | None) -> None:
    clock = Clock()
    of = contests(clock)
    for _ in range(4):
        contest = act(of, shown)
        clock.now += 1
    assert (contest.fault.message if contest.fault else None) == words
    assert of.fault(samples.sandbox()) == contest.fault
    of.close()


async def test_repetitions_back_off_as_failures_do_until_it_is_quiet_or_another_act() -> None:
    clock = Clock()
    of = contests(clock)
    waited: list[float] = []
    for _ in range(14):
        begun = clock.now
        while True:
            try:
                act(of, None)
                break
            except (engines.Refused, engines.Unreachable):
                clock.now = round(clock.now + 0.1, 1)
        waited.append(round(clock.now - begun, 1))
    assert waited[:8] == pytest.approx([0, 0, 0, 0.2, 0.4, 0.8, 1.6, 3.2], abs=0.11)
    assert waited[-2:] == pytest.approx([30, 30], abs=0.11)
    with pytest.raises(engines.Refused) as refused:
        of.begin(KEY, (1, 1))
    assert refused.value.fault.reason is Reason.FIELD_CONFLICT
    assert of.begin(KEY, (2, 1)).count == 0
    act(of, None)
    clock.now += Pace.contest_quiet + 1
    assert of.fault(samples.sandbox()) is None
    assert of.begin(KEY, (1, 1)).count == 0
    of.close()


async def test_act_that_writes_nothing_is_no_repetition() -> None:
    of = contests(Clock())
    for _ in range(9):
        of.done(KEY, of.begin(KEY, (1, None)))
    assert of.begin(KEY, (1, None)).count == 0


async def test_act_that_writes_nothing_after_one_that_wrote_is_no_repetition() -> None:
    of = contests(Clock())
    act(of, None)
    for _ in range(9):
        of.done(KEY, of.begin(KEY, (1, 1)))
    assert of.begin(KEY, (1, 1)).count == 1


async def test_object_that_is_created_again_is_named_with_its_creator() -> None:
    clock = Clock()
    of = contests(clock)
    for number in range(4):
        contest = of.begin(KEY, (1, None))
        contest.removed(REFERENCE, found(entry("velero", {}), uid=str(number)))
        of.done(KEY, contest)
        clock.now += 1
    assert contest.fault is not None
    assert contest.fault.message == "velero makes the Service demo-1-service again each time the service removes it"
    of.close()


def contested(of: Contests, clock: Clock, key: Key = KEY, step: float = 1) -> None:
    """Repeats an act every `step` seconds that is undone each time, until it is contested."""
    for _ in range(4):
        contest = of.begin(key, (1, 1))
        if contest.watched:
            contest.compare(REFERENCE, None)
        contest.written(REFERENCE, MADE)
        of.done(key, contest)
        clock.now += step


async def test_only_the_generation_of_the_act_is_contested() -> None:
    clock = Clock()
    of = contests(clock)
    contested(of, clock)
    assert of.fault(samples.sandbox()) is not None
    assert of.fault(samples.sandbox(generation=2)) is None
    of.close()


async def test_end_of_a_contest_is_reported_once_it_has_been_quiet() -> None:
    changed: list[Key] = []
    clock = Clock()
    of = Contests(changed.append, dataclasses.replace(Pace(), contest_quiet=0.3), clock)
    contested(of, clock, step=0.25)
    assert changed == []
    await asyncio.sleep(0.6)
    assert changed == [KEY]


async def test_quiet_contest_is_forgotten_while_another_goes_on() -> None:
    clock = Clock()
    of = contests(clock)
    other = Key("default", "demo-2")
    contested(of, clock)
    contested(of, clock, other)
    clock.now += Pace.contest_quiet - 8
    contest = of.begin(KEY, (1, 1))
    contest.written(REFERENCE, MADE)
    of.done(KEY, contest)
    clock.now += 10
    assert of.begin(other, (1, 1)).count == 0
    of.close()


async def test_act_that_takes_long_is_counted_though_another_began_meanwhile() -> None:
    clock = Clock()
    of = contests(clock)
    contest = of.begin(KEY, (1, 1))
    contest.written(REFERENCE, MADE)
    clock.now += Pace.contest_quiet + 1
    of.begin(Key("default", "demo-2"), (1, 1))
    of.done(KEY, contest)
    assert of.begin(KEY, (1, 1)).count == 1
    of.close()
