"""How long each sandbox's process has been ready since it was started, and its workload left as it is by its controller:
a process that ends at once is never RUNNING, and a controller that does not act is not waited for.

All times are by the clock of the service, so that no clock of the cluster matters. What is not known after a restart of
the service costs `ready_for` once, and nothing where the sandbox is RUNNING.
"""

import dataclasses
from dataclasses import dataclass
from datetime import datetime, timedelta

from sandbox_server.domain.observed import Observed, Workload
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Key, Sandbox

RECENT = timedelta(minutes=1)
"""How long the last end of a process is recent while the process that followed has not become ready."""

Start = tuple[str, int, int]
"""What names one start of the processes in a pod: its uid, its generation and how often they were started again."""


@dataclass
class _Run:
    """`since`: when it was first seen. `ready_since`: since when it is seen ready. `proven`: it was so for long enough."""

    start: Start
    since: datetime
    ready_since: datetime | None = None
    proven: bool = False


class Runs:
    """The present run of each sandbox, as it was seen."""

    def __init__(self, ready_for: timedelta) -> None:
        self._ready_for = ready_for
        self._runs: dict[Key, _Run] = {}
        self._ignored: dict[Key, tuple[tuple[int, int, bool], datetime]] = {}
        """Each workload that its controller has to act on, as it is (generation, replicas, obeyed), and since when it has been so."""

    def forget(self, key: Key) -> None:
        """Drops what is remembered of a sandbox."""
        self._runs.pop(key, None)
        self._ignored.pop(key, None)

    def timed(self, sandbox: Sandbox, observed: Observed, now: datetime) -> Observed:
        """Returns `observed` with the times from which the pod's readiness counts and its last end is past, and since when
        the workload is left as it is."""
        workload, pod = self._workload(sandbox.key, observed, now), observed.pod
        observed = dataclasses.replace(observed, workload=workload)
        if pod is None:
            return observed
        start, run = (pod.uid, pod.generation, pod.restart_count), self._runs.get(sandbox.key)
        if run is None or run.start != start:
            first_look = run is None and sandbox.status.phase is Phase.RUNNING
            run = self._runs[sandbox.key] = _Run(start, now, proven=first_look)
        run.ready_since = (run.ready_since or now) if pod.ready else None
        restarted = pod.restart_count > 0
        wait = self._ready_for if restarted or not pod.probed else timedelta()
        run.proven = run.proven or (run.ready_since is not None and now - run.ready_since >= wait)
        if run.proven:
            return observed
        ready_at = run.ready_since + wait if run.ready_since else None
        recent_until = run.since + RECENT if restarted else None
        return dataclasses.replace(observed, pod=dataclasses.replace(pod, ready_at=ready_at, recent_until=recent_until))

    def _workload(self, key: Key, observed: Observed, now: datetime) -> Workload | None:
        workload = observed.workload
        if workload is None or not observed.controller_due:
            self._ignored.pop(key, None)
            return workload
        stands = workload.generation, workload.replicas, workload.obeyed
        known, since = self._ignored.get(key, (stands, now))
        since = since if known == stands else now
        self._ignored[key] = stands, since
        return dataclasses.replace(workload, ignored_since=since)
