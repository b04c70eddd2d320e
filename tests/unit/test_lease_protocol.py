"""The protocol of the leases, with adversarial times: whatever happens, no two replicas hold a namespace at once.

The database is modelled here; `tests/integration/replicas/test_turns.py` is about its statements.
"""

import random
from collections.abc import Callable, Collection, Coroutine, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from sandbox_server import store
from sandbox_server.domain import errors
from sandbox_server.domain.lease import Lease, Replica, Sight, shares
from sandbox_server.domain.pace import Pace
from sandbox_server.leases import shared
from sandbox_server.store import leases

from tests.support import variants

NAMESPACES = frozenset({"a", "b", "c", "d"})
PACE = Pace()


@dataclass
class Asked:
    """A transaction that a replica has asked for. `answer` is there once it is committed."""

    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    answer: Any = None
    committed: bool = False

    def __await__(self) -> Generator["Asked", Any, Any]:
        return (yield self)


@dataclass
class World:
    """The database. `now` is the time; its clock is `ahead` of it."""

    now: float = 1000.0
    ahead: float = 0.0
    sequence: int = 0
    alive: dict[str, tuple[float, Replica]] = field(default_factory=dict)
    rows: dict[str, tuple[str, int, float]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    @property
    def clock(self) -> float:
        return self.now + self.ahead

    def set(self, ahead: float) -> None:
        """Sets the clock, unless a replica has not seen that it was set before: two steps can look like none."""
        if len(self.seen) == 3:
            self.ahead = ahead
            self.seen.clear()

    def _left(self, until: float) -> float:
        left = until - self.clock
        return left if left <= 2 * PACE.lease else 0.0

    def turn(
        self, clock: store.Clock, me: Replica, lasting: float, _sights: Mapping[str, Sight], _live: Collection[str]
    ) -> leases.Standing:
        steady = clock.read(self.now, self.clock, self.now)
        self.seen.add(me.id)
        until = self.clock + lasting
        self.alive[me.id] = (until, me)
        for name, (holder, epoch, _) in self.rows.items():
            if holder == me.id:
                self.rows[name] = (holder, epoch, until)
        replicas = [one for left, one in self.alive.values() if self._left(left) > 0]
        share = {name for name, holder in shares(NAMESPACES, replicas).items() if holder == me.id}
        if not steady:
            share = {name for name, (holder, _, _) in self.rows.items() if holder == me.id}
        for name in share:
            _, epoch, ends = self.rows.get(name, ("", 0, 0.0))
            if self._left(ends) <= 0:
                self.rows[name] = (me.id, epoch + 1, until)
        known = {
            name: Lease(name, holder, epoch, self._left(ends), Sight())
            for name, (holder, epoch, ends) in self.rows.items()
        }
        return leases.Standing(known, replicas, frozenset(share), self.sequence)

    def give_up(self, me: str, namespaces: Collection[str]) -> None:
        for name in namespaces:
            holder, epoch, _ = self.rows[name]
            if holder == me:
                self.rows[name] = ("", epoch, 0.0)

    def leave(self, me: str) -> None:
        self.alive.pop(me, None)
        self.give_up(me, list(self.rows))

    def run(self, asked: Asked) -> None:
        asked.answer = getattr(self, asked.work.__name__)(*asked.arguments)
        asked.committed = True


class Leases(shared.Shared):
    """Does not wait for the feed: the next turn looks at it again."""

    async def _caught_up(self, sequence: int) -> bool:
        return self._feed.sequence >= sequence


class Actor:
    """A replica whose transactions take as long as the test likes."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.feed: Any = SimpleNamespace(sequence=0, catalogue=SimpleNamespace(namespaces=set))
        self.under_way: Coroutine[Asked, Any, None] | None = None
        self.asked: Asked | None = None
        cluster: Any = SimpleNamespace(follow=lambda _: None)
        mine: Any = SimpleNamespace(name=f"replica-{number}", leasing=asked_of)
        self.leases = Leases(mine, self.feed, cluster, "kubernetes", PACE)
        self.leases._news = dict  # type: ignore[method-assign]
        self.leases.serve(NAMESPACES)

    def held(self) -> set[str]:
        return {name for name in NAMESPACES if self.leases.held(name)}

    def begin(self) -> None:
        if self.under_way is None:
            self.under_way = self.leases._turn()
            self._goes_on(lambda turn: turn.send(None))

    def commit(self) -> None:
        if self.asked is not None and not self.asked.committed:
            self.world.run(self.asked)

    def answer(self) -> None:
        if self.asked is not None and self.asked.committed:
            answer = self.asked.answer
            self._goes_on(lambda turn: turn.send(answer))

    def fail(self) -> None:
        """The answer is lost, before or after the commit."""
        if self.asked is not None:
            self._goes_on(lambda turn: turn.throw(errors.Unavailable("DATABASE_UNAVAILABLE", "")))

    def _goes_on(self, step: Callable[[Any], Asked]) -> None:
        try:
            self.asked = step(self.under_way)
        except (StopIteration, errors.Unavailable):
            self.asked = self.under_way = None

    def whole(self) -> None:
        """Makes a whole turn, in no time."""
        self.fail()
        self.begin()
        while self.asked is not None:
            self.commit()
            self.answer()


async def asked_of(work: Callable[..., Any], *arguments: Any) -> Any:
    return await Asked(work, arguments)


def steps(chance: random.Random) -> Iterator[tuple[str, Any]]:
    """Yields what happens. Turns are more common than what disturbs them."""
    turns = ("whole", "whole", "begin", "commit", "answer", "fail", "read")
    for _ in range(400):
        match chance.randrange(20):
            case 0:
                yield "set", chance.choice([-300.0, -2.0, 0.0, 0.15, 2.0, 300.0])
            case 1:
                yield "write", 0
            case 2 | 3 | 4 | 5 | 6:
                yield "pass", chance.choice([0.02, 0.3, 1.0, 1.9])
            case _:
                yield chance.choice(turns), chance.choice([0, 0, 0, 1, 1, 2])


@pytest.mark.parametrize("seed", variants.some(range(100), *range(10)))
def test_no_two_replicas_hold_a_namespace_at_once_and_in_the_end_each_is_held(seed: int) -> None:
    world = World()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shared, "time", SimpleNamespace(monotonic=lambda: world.now))
        patched.setattr(shared, "log", SimpleNamespace(info=lambda *_, **__: None))
        actors = [Actor(world, number) for number in range(3)]
        for one in actors:
            one.whole()
        for name, value in steps(random.Random(seed)):
            match name:
                case "pass":
                    world.now += value
                case "set":
                    world.set(value)
                case "write":
                    world.sequence += 1
                case "read":
                    actors[value].feed.sequence = world.sequence
                case _:
                    getattr(actors[value], name)()
            held = [one.held() for one in actors]
            assert sum(map(len, held)) == len(set().union(*held)), (name, value, held, world.rows)
        # Nothing disturbs them any more.
        for _ in range(int(3 * PACE.lease / PACE.lease_every)):
            world.now += PACE.lease_every
            for one in actors:
                one.feed.sequence = world.sequence
                one.whole()
        assert sorted(name for one in actors for name in one.held()) == sorted(NAMESPACES)
