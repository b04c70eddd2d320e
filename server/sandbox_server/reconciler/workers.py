"""Workers that take keys from a queue and work them, and what becomes of a key whose work has failed."""

import asyncio
import collections
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import structlog

from sandbox_server import engines, store
from sandbox_server.domain import errors
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Key
from sandbox_server.reconciler.queue import Line, Queue

log = structlog.get_logger()


class _Outcome(NamedTuple):
    """How the work on a key ended. `retry_after`: seconds for which the engine asked to be left alone."""

    name: str
    reason: str = ""
    retry_after: float = 0.0


class Workers:
    """Work the keys of a queue, those that failed again later.

    `outcomes` counts how the work on a key ended, with the reason of a refusal.
    """

    def __init__(
        self,
        kind: str,
        queue: Queue,
        work: Callable[[Key], Awaitable[None]],
        forget: Callable[[Key], None],
        count: int,
        pace: Pace,
    ) -> None:
        """`kind`: what a key names, for the log. `count`: how many workers each line of the queue has.

        `forget` is called with a key whose namespace this replica does not hold.
        """
        self._kind = kind
        self._queue = queue
        self._work = work
        self._forget = forget
        self._count = count
        self._pace = pace
        self._quiet_until: dict[str, float] = {}
        self.outcomes = collections.Counter[tuple[str, str]]()

    async def run(self) -> None:
        """Works until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for line in Line:
                for _ in range(self._count):
                    tasks.create_task(self._run(line))

    async def _run(self, line: Line) -> None:
        while True:
            key = await self._queue.get(line)
            outcome = await self._outcome(key)
            self.outcomes[outcome.name, outcome.reason] += 1
            if outcome.name == "done":
                self._queue.succeeded(key)
            elif outcome.name == "not_held":
                # Whoever holds the namespace queues all that is in it, and so does this replica if it holds it again.
                self._forget(key)
            else:
                self._queue.retry(key, outcome.retry_after)
            self._queue.done(key)

    async def _outcome(self, key: Key) -> _Outcome:
        """Works a key and returns how that ended."""
        try:
            await self._work(key)
        except store.Stale:
            # There is a newer event, and it wakes the key: a mutation of this replica has done so, another replica's will when
            # the feed reads it.
            return _Outcome("stale")
        except engines.Outdated:
            # What has changed wakes the key as well, if it can change the decision.
            return _Outcome("outdated")
        except engines.NotHeld:
            return _Outcome("not_held")
        except engines.Refused as refused:
            self._warn(refused.fault.reason.name, key, str(refused))
            return _Outcome("refused", refused.fault.reason.name)
        except engines.Unreachable as unreachable:
            self._warn("UNREACHABLE", key, str(unreachable))
            return _Outcome("unreachable", retry_after=unreachable.retry_after)
        except errors.Unavailable:
            # The store has said why.
            return _Outcome("unavailable")
        except Exception:
            log.exception("reconcile_failed", namespace=key.namespace, **{self._kind: key.id})
            return _Outcome("failed")
        return _Outcome("done")

    def _warn(self, reason: str, key: Key, message: str) -> None:
        """Logs one line for each reason in `Pace.log_every`: many keys may share a cause, and each is tried many times."""
        now = time.monotonic()
        if now >= self._quiet_until.get(reason, now):
            self._quiet_until[reason] = now + self._pace.log_every
            log.warning(
                "engine_failed", reason=reason, namespace=key.namespace, message=message, **{self._kind: key.id}
            )
