"""Turns: few programs begin at once, so that a burst of them keeps neither the service nor the first of them waiting."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

AT_ONCE = 4
"""Programs that begin at once. They are processes of this machine: more of them would begin no sooner, and all late."""


class Turns:
    """Gives turns in the order in which they are asked for."""

    def __init__(self, longest: float) -> None:
        """`longest`: seconds after which a turn is over in any case."""
        self._longest = longest
        self._free = asyncio.Semaphore(AT_ONCE)

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[Callable[[], None]]:
        """Waits for a turn, which is over at the end of the context, or once what is yielded is called."""
        await self._free.acquire()
        with contextlib.ExitStack() as turn:
            turn.callback(self._free.release)
            turn.callback(asyncio.get_running_loop().call_later(self._longest, turn.close).cancel)
            yield turn.close
