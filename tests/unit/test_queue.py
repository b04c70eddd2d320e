"""The queue of the reconciler: what waits, what is worked, what comes again, and when."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Key
from sandbox_server.reconciler import queue

A, B = Key("default", "a"), Key("default", "b")


@pytest.fixture
async def waiting() -> AsyncIterator[queue.Queue]:
    made = queue.Queue(Pace())
    yield made
    made.close()


async def nothing_waits(waiting: queue.Queue, line: queue.Line = queue.Line.SHOWN) -> bool:
    try:
        async with asyncio.timeout(0.02):
            await waiting.get(line)
    except TimeoutError:
        return True
    return False


async def test_what_waits_twice_is_worked_once_in_the_order_of_arrival(waiting: queue.Queue) -> None:
    for key in (A, B, A, A):
        waiting.add(key)
    assert len(waiting) == 2
    assert [await waiting.get(), await waiting.get()] == [A, B]
    assert len(waiting) == 2
    assert await nothing_waits(waiting)
    waiting.done(A)
    waiting.done(B)
    assert len(waiting) == 0
    assert await nothing_waits(waiting)


async def test_no_two_workers_have_a_key_and_one_that_comes_meanwhile_is_worked_after(waiting: queue.Queue) -> None:
    waiting.add(A)
    assert await waiting.get() == A
    waiting.add(A)
    waiting.add(A)
    assert await nothing_waits(waiting)
    waiting.done(A)
    assert await waiting.get() == A
    waiting.done(A)
    assert await nothing_waits(waiting)


async def test_many_workers_and_many_wakes_never_meet_at_a_key(waiting: queue.Queue) -> None:
    keys = [Key("default", f"k{number}") for number in range(5)]
    working: set[Key] = set()
    turns = dict.fromkeys(keys, 0)

    async def work() -> None:
        while True:
            key = await waiting.get()
            assert key not in working
            working.add(key)
            await asyncio.sleep(0)
            turns[key] += 1
            working.discard(key)
            waiting.done(key)

    workers = [asyncio.create_task(work()) for _ in range(4)]
    for key, _ in itertools.product(keys, range(40)):
        waiting.add(key)
        await asyncio.sleep(0)
    async with asyncio.timeout(30):
        while len(waiting):
            await asyncio.sleep(0)
    assert not any(one.done() for one in workers)
    for one in workers:
        one.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert min(turns.values()) > 1


async def test_a_long_line_delays_no_other(waiting: queue.Queue) -> None:
    for number in range(100):
        waiting.add(Key("default", f"k{number}"), queue.Line.ASKED)
    waiting.add(A, queue.Line.REPEATED)
    waiting.add(B, queue.Line.SHOWN)
    assert [await waiting.get(line) for line in (queue.Line.SHOWN, queue.Line.REPEATED)] == [B, A]


async def test_namespaces_take_turns(waiting: queue.Queue) -> None:
    keys = {namespace: [Key(namespace, f"k{number}") for number in range(3)] for namespace in ("many", "few")}
    for key in (*keys["many"], keys["few"][0], keys["few"][1]):
        waiting.add(key)
    taken = [await waiting.get() for _ in range(5)]
    assert taken == [keys["many"][0], keys["few"][0], keys["many"][1], keys["few"][1], keys["many"][2]]


@pytest.mark.parametrize("taken", list(queue.Line))
async def test_a_key_in_several_lines_is_worked_once(waiting: queue.Queue, taken: queue.Line) -> None:
    for line in queue.Line:
        waiting.add(A, line)
    assert len(waiting) == 1
    assert await waiting.get(taken) == A
    for line in queue.Line:
        # One of them finds where it waited before.
        waiting.add(A, line)
        assert await nothing_waits(waiting, line)
    waiting.done(A)
    assert await waiting.get(taken) == A
    waiting.done(A)
    for line in queue.Line:
        assert await nothing_waits(waiting, line)


async def test_a_failure_is_repeated_in_the_line_for_it(waiting: queue.Queue) -> None:
    waiting.add(A, queue.Line.ASKED)
    await waiting.get(queue.Line.ASKED)
    waiting.retry(A)
    waiting.done(A)
    async with asyncio.timeout(30):
        assert await waiting.get(queue.Line.REPEATED) == A


async def delays(monkeypatch: pytest.MonkeyPatch, waiting: queue.Queue, chance: float, failures: int) -> list[float]:
    """The delays that so many failures in a row ask for, with jitter from its least (0) to its most (1)."""
    asked: list[float] = []
    monkeypatch.setattr(queue.random, "uniform", lambda low, high: low + (high - low) * chance)
    monkeypatch.setattr(waiting, "add_after", lambda _key, seconds, _line: asked.append(seconds))
    for _ in range(failures):
        waiting.retry(A)
    return asked


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.5), (1.0, 1.0)])
async def test_back_off_doubles_up_to_its_most_and_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, waiting: queue.Queue, chance: float, share: float
) -> None:
    doubled = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    assert await delays(monkeypatch, waiting, chance, 10) == pytest.approx([one * share for one in doubled])
    for forget in (waiting.succeeded, waiting.forget):
        forget(A)
        assert await delays(monkeypatch, waiting, chance, 1) == pytest.approx([0.2 * share])


async def test_a_thousand_failures_at_once_come_back_spread_out(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = queue.Queue(Pace())
    asked: list[float] = []
    monkeypatch.setattr(waiting, "add_after", lambda _key, seconds, _line: asked.append(seconds))
    for number in range(1000):
        waiting.retry(Key("default", f"k{number}"))
    assert 0.1 <= min(asked) < 0.11
    assert 0.19 < max(asked) <= 0.2


async def test_an_engine_that_asks_for_more_gets_it(monkeypatch: pytest.MonkeyPatch, waiting: queue.Queue) -> None:
    asked: list[float] = []
    monkeypatch.setattr(waiting, "add_after", lambda _key, seconds, _line: asked.append(seconds))
    waiting.retry(A, 7.0)
    assert asked == [7.0]


async def test_a_key_comes_at_the_earliest_of_the_times_that_were_asked_for(waiting: queue.Queue) -> None:
    waiting.add_after(A, 60)
    waiting.add_after(A, 0.01)
    waiting.add_after(A, 60)
    assert len(waiting) == 0
    async with asyncio.timeout(30):
        assert await waiting.get() == A
    waiting.done(A)
    assert await nothing_waits(waiting)


@pytest.mark.parametrize("how", ["close", "forget"])
async def test_no_delay_is_left(waiting: queue.Queue, how: str) -> None:
    waiting.add_after(A, 0.01)
    waiting.close() if how == "close" else waiting.forget(A)
    await asyncio.sleep(0.03)
    assert len(waiting) == 0


@pytest.mark.parametrize("make", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_key_with_a_very_short_delay_is_given_another_on_each_loop(
    make: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def work() -> None:
        made = queue.Queue(Pace())
        for seconds in (0.0, 0.0001, 0.0, 5.0):
            made.add_after(A, seconds)
        assert await asyncio.wait_for(made.get(), 30) == A
        made.close()

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(work())
