"""Moves the home of a Deployment of a former system to the disk of the sandbox that has adopted it.

Where a move stands is said by an annotation of the claim, so that any replica goes on with it. The home is copied while the
former pod runs, until nothing differs and nothing has changed meanwhile. Then the sandbox starts, and once its pod is ready the
former pod is looked at again: if that has written anything since, the sandbox is stopped, and its home is made the same once
more. Until the former pod is let go, nothing of the former system has been changed but for marks.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from sandbox_server import engines
from sandbox_server.domain.observed import Move, Observed, Pod
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import DesiredState
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.engines.fence import Fence
from sandbox_server.engines.kubernetes import client, patch
from sandbox_server.engines.kubernetes.home_copy import NotMoved
from sandbox_server.engines.kubernetes.move_steps import Steps
from sandbox_server.engines.kubernetes.view import View
from sandbox_server.settings import Kubernetes

log = structlog.get_logger()

_COPIES = "the files of the former pod are being copied"
_STARTS = "the sandbox starts with the copy of its files; the former pod goes when that is ready"

_AT_ONCE = 2
"""How many homes a replica copies: their lists are in its memory, and their files go through it."""
_LOOKS = 3
"""How often a sandbox is started and its former pod has written meanwhile, before that is left alone for a while."""


@dataclass(frozen=True, slots=True)
class _Released:
    """That the former pod may go, as its home was found at `at`, when the process `incarnation` of the sandbox ran.

    It is recorded nowhere but in what follows: that the sandbox has settled. Until then its process may end, and its user go
    on in the former pod, which has to be looked at again.
    """

    at: float
    incarnation: str

    def holds(self, pod: Pod | None, within: float) -> bool:
        """Whether that still is so."""
        return time.monotonic() < self.at + within and self.incarnation == _incarnation(pod)


def _incarnation(pod: Pod | None) -> str:
    return "" if pod is None else pod.incarnation


@dataclass(eq=False)
class _Job:
    """What is remembered of a move. `task` does the step that is due."""

    uid: str
    message: str = _COPIES
    failure: str = ""
    task: asyncio.Task[None] | None = None
    again_at: float = 0.0
    released: _Released | None = None
    looks: int = 0

    @property
    def idle(self) -> bool:
        """Whether the next step may begin."""
        return self.task is None and time.monotonic() >= self.again_at

    def say(self, message: str) -> None:
        """Notes how far it is."""
        self.message = f"{_COPIES}: {message}"


class Moves:
    """The moves that this replica makes."""

    def __init__(self, api: client.Client, settings: Kubernetes, pace: Pace) -> None:
        self._api = api
        self._settings = settings
        self._pace = pace
        self._jobs: dict[Key, _Job] = {}
        self._copies = asyncio.Semaphore(_AT_ONCE)

    def shown(self, sandbox: Sandbox, observed: Observed) -> Move | None:
        """Returns where the move of a sandbox stands; None if there is none, or it is done."""
        volume, pod = observed.volume, observed.pod
        if not sandbox.moves:
            return None
        job = self._job(sandbox)
        if volume is None or not volume.home:
            return Move(False, job.idle and volume is not None and pod is None, job.message, job.failure)
        ready = pod is not None and pod.counts(datetime.now(UTC)) and not pod.terminating
        stopped = sandbox.desired is DesiredState.STOPPED and pod is None
        if not (ready or stopped):
            job.released = None
        if job.released is not None and job.released.holds(pod, self._pace.home_released):
            return None
        return Move(True, job.idle and (ready or stopped), _STARTS, job.failure)

    def go_on(
        self, sandbox: Sandbox, view: View, fence: Fence, move: Move | None, changed: Callable[[Key], None]
    ) -> None:
        """Begins the step that is due. `changed` is called when it has ended."""
        if sandbox.adopted is None or move is None or not move.due:
            return
        job = self._job(sandbox)
        pod = view.observe(sandbox, None).pod
        steps = Steps(self._api, self._settings, self._pace, sandbox, sandbox.adopted, view, fence, job.say)
        step = self._let_go(job, steps, _incarnation(pod)) if move.copied else self._copy(job, steps)
        job.task = asyncio.create_task(self._do(job, sandbox.key, step, changed))

    async def _copy(self, job: _Job, steps: Steps) -> None:
        job.say("it waits for those of other sandboxes")
        async with self._copies:
            await steps.copy()

    async def _let_go(self, job: _Job, steps: Steps, incarnation: str) -> None:
        job.looks += 1
        may_go = await steps.let_go(job.looks % _LOOKS == 0)
        job.released = _Released(time.monotonic(), incarnation) if may_go else None

    async def end(self, key: Key) -> None:
        """Ends what is being done for a sandbox, and forgets it."""
        job = self._jobs.pop(key, None)
        if job is not None and job.task is not None:
            job.task.cancel()
            await asyncio.wait([job.task])

    async def close(self) -> None:
        """Ends everything."""
        for key in list(self._jobs):
            await self.end(key)

    def _job(self, sandbox: Sandbox) -> _Job:
        job = self._jobs.get(sandbox.key)
        if job is None or job.uid != sandbox.uid:
            job = self._jobs[sandbox.key] = _Job(sandbox.uid)
        return job

    async def _do(self, job: _Job, key: Key, step: Coroutine[None, None, None], changed: Callable[[Key], None]) -> None:
        """Does a step. One that fails is done again after a while, and its cause is shown; one that is cut off, soon."""
        failure, again = "", self._pace.home_look_every
        try:
            await step
            again = 0.0
        except (NotMoved, patch.Inapplicable) as error:
            failure, again = str(error), self._pace.home_again
        except engines.Refused as refused:
            failure, again = refused.fault.message, self._pace.home_again
        except (engines.NotGranted, engines.Unsupported) as error:
            failure, again = str(error), self._pace.home_again
        except engines.Unreachable as error:
            log.warning("move_cut_off", namespace=key.namespace, sandbox=key.id, error=str(error))
        except (engines.NotHeld, engines.Outdated):
            pass
        except Exception:
            log.exception("move_failed", namespace=key.namespace, sandbox=key.id)
            again = self._pace.home_again
        finally:
            job.task, job.failure, job.again_at = None, failure, time.monotonic() + again
        asyncio.get_running_loop().call_later(again, changed, key)
