"""Copies in a few threads: one that waits for its turn is ended at once."""

import asyncio
import threading
from pathlib import Path

from sandbox_server.engines.local.copies import Copies

from tests.support.waiting import PATIENCE


async def test_a_copy_that_waits_is_ended_without_its_turn_and_never_begins() -> None:
    copies, freed, begun = Copies(1), threading.Event(), threading.Event()
    ended: list[Exception | None] = []
    first, second = Path("first"), Path("second")
    copies.begin(first, lambda _: assert_freed(freed), ended.append)
    copies.begin(second, lambda _: begun.set(), ended.append)
    async with asyncio.timeout(10 * PATIENCE):
        await copies.end(second)
    assert second not in copies
    assert first in copies
    freed.set()
    async with asyncio.timeout(10 * PATIENCE):
        while first in copies:
            await asyncio.sleep(0.01)
        await copies.close()
    assert ended == [None]
    assert not begun.is_set()


def assert_freed(freed: threading.Event) -> None:
    assert freed.wait(20 * PATIENCE)
