"""How long a sandbox's process has been ready since it was started, and its workload left as it is by its controller:
a process that ends at once is never RUNNING, and a controller that does not act is not waited for.

All times are by the clock of the service, so that no clock of the cluster matters. What is not known after a restart of
the service costs `ready_for` once, and nothing where the sandbox is RUNNING.
"""

import dataclasses
from dataclasses import dataclass
from datetime import datetime, timedelta

from sandbox_server.domain.observed import Observed, Pod, Workload
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.sandbox import Sandbox

Start = tuple[str, int, int]
"""What names one start of the processes in a pod: its uid, its generation and how often they were started again."""


@dataclass
class _Run:
    """`since`: when it was first seen. `ready_since`: since when it is seen ready. `proven`: it was so for long enough."""

    start: Start
    since: datetime
    ready_since: datetime | None = None
    proven: bool = False


@dataclass
class _Ignored:
    """A workload that its controller has to act on: its generation, its replicas and whether the controller has caught up,
    and since when it has been so."""

    stands: tuple[int, int, bool]
    since: datetime


class Timer:
    """The times of one sandbox: of its present run, and of its workload as it stands."""

    def __init__(self) -> None:
        self._run: _Run | None = None
        self._ignored: _Ignored | None = None

    def timed(self, sandbox: Sandbox, observed: Observed, pace: Pace, now: datetime) -> Observed:
        """Returns `observed` with the times from which the pod's readiness counts and its last end is past, and when the
        workload has been left as it is for too long."""
        controller_due = observed.controller_due(sandbox.pod_generation)
        workload = observed.workload and self._workload(observed.workload, controller_due, pace, now)
        pod = observed.pod and self._pod(sandbox, observed.pod, pace, now)
        return dataclasses.replace(observed, workload=workload, pod=pod)

    def _workload(self, workload: Workload, controller_due: bool, pace: Pace, now: datetime) -> Workload:
        if not controller_due:
            self._ignored = None
            return workload
        stands = (workload.generation, workload.replicas, workload.controller_caught_up)
        if self._ignored is None or self._ignored.stands != stands:
            self._ignored = _Ignored(stands, now)
        return dataclasses.replace(workload, ignored_at=self._ignored.since + timedelta(seconds=pace.controller_guard))

    def _pod(self, sandbox: Sandbox, pod: Pod, pace: Pace, now: datetime) -> Pod:
        start, run = (pod.uid, pod.generation, pod.restart_count), self._run
        if run is None or run.start != start:
            first_look = run is None and sandbox.status.phase is Phase.RUNNING
            run = self._run = _Run(start, now, proven=first_look)
        run.ready_since = (run.ready_since or now) if pod.ready else None
        restarted = pod.restart_count > 0
        seconds = pace.ready_for if restarted or not pod.probed else 0.0
        if _contested(sandbox):
            seconds = max(seconds, pace.contested_ready_for)
        wait = timedelta(seconds=seconds)
        run.proven = run.proven or (run.ready_since is not None and now - run.ready_since >= wait)
        if run.proven:
            return pod
        ready_at = run.ready_since + wait if run.ready_since else None
        recent_until = run.since + timedelta(seconds=pace.restart_recent) if restarted else None
        return dataclasses.replace(pod, ready_at=ready_at, recent_until=recent_until)


def _contested(sandbox: Sandbox) -> bool:
    """Whether somebody takes back what the service writes, so that a pod which is ready may be gone in a moment."""
    return sandbox.status.phase is Phase.ERROR and sandbox.status.reason is Reason.FIELD_CONFLICT
