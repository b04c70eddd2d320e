"""When the service says that it is SERVING."""

import asyncio
from collections.abc import Callable
from typing import Any

from sandbox_server import app
from sandbox_server.domain import errors
from sandbox_server.domain.pace import Pace


class Parts:
    """The server, the store and the engine, as far as health goes."""

    def __init__(self) -> None:
        self.any_synced = False
        self.answers = True
        self.said: list[bool] = []

    async def serving(self, ready: bool) -> None:
        self.said.append(ready)

    async def read(self, _query: Any, _lane: Any) -> None:
        if not self.answers:
            raise errors.Unavailable("DATABASE_UNAVAILABLE", "repeat the call")

    async def next(self) -> bool:
        """What is said of the parts as they are now."""
        seen = len(self.said)
        async with asyncio.timeout(30):
            # One look may have begun before.
            while len(self.said) < seen + 2:
                await asyncio.sleep(0.001)
        return self.said[-1]


async def test_it_is_serving_once_the_engine_was_synced_and_while_the_store_answers() -> None:
    parts: Any = Parts()
    task = asyncio.create_task(app._health(parts, parts, parts, Pace(health_every=0.01)))
    changes: list[tuple[Callable[[], None], bool]] = [
        (lambda: None, False),
        (lambda: setattr(parts, "any_synced", True), True),
        (lambda: setattr(parts, "answers", False), False),
        (lambda: setattr(parts, "answers", True), True),
        # Its callers get statuses that are marked as stale, which is better than none.
        (lambda: setattr(parts, "any_synced", False), True),
    ]
    for change, serving in changes:
        change()
        assert await parts.next() is serving
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
