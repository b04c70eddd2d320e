"""One round of the loop that works schedules, with many of them."""

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from sandbox_server.domain import schedules
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.schedule import Target
from sandbox_server.schedules.runner import Runner

from tests.support import samples

SCHEDULES = [
    samples.schedule(f"s-{number}", uid=f"schedule-{number}", target=Target(label_selector="tier=web"))
    for number in range(20)
]
SANDBOXES = [
    samples.sandbox(f"b-{number}", spec=samples.spec(labels={"tier": "web"}), volume_uid="disk")
    for number in range(500)
]
COVERED = [schedules.begin(schedule, sandbox) for schedule in SCHEDULES for sandbox in SANDBOXES]


class Steps:
    """Records what is asked of it."""

    def __init__(self) -> None:
        self.asked = 0
        self.taken: list[tuple[str, str, str]] = []

    async def enrol(self, key: Key, joining: Any, leaving: Any, epoch: int) -> None:
        assert (list(joining), list(leaving)) == ([], [])

    async def missing(self, namespace: str) -> str:
        self.asked += 1
        return "none"

    async def take(self, key: Key, sandbox_key: Key, missing: str, epoch: int, moves: bool) -> bool:
        self.taken.append((key.id, sandbox_key.id, missing))
        return False


class Store:
    """Has the schedules, and no snapshots."""

    async def read(self, *_: Any) -> Any:
        return SCHEDULES, COVERED, []


def runner(steps: Steps, late: timedelta) -> Runner:
    feed: Any = SimpleNamespace(on_event=lambda _: None, catalogue=SimpleNamespace(sandboxes=lambda: iter(SANDBOXES)))
    store: Any = Store()
    nothing: Any = None
    made: Any = steps
    return Runner(feed, feed, store, made, nothing, nothing, Pace(), lambda: samples.NOW + late)


async def test_others_have_their_turn_during_a_round() -> None:
    steps = Steps()
    round_ = asyncio.create_task(runner(steps, timedelta())._round("default", 1))
    turns = 0
    while not round_.done():
        turns += 1
        await asyncio.sleep(0)
    assert await round_ is not None
    # At least one for each 250 pairs.
    assert turns > len(COVERED) / 250
    assert (steps.asked, steps.taken) == (0, [])


async def test_the_engine_is_asked_once_a_round_whether_it_takes_snapshots() -> None:
    steps = Steps()
    await runner(steps, timedelta(days=1))._round("default", 1)
    assert (steps.asked, len(steps.taken)) == (1, len(COVERED))
    assert {missing for _, _, missing in steps.taken} == {"none"}
