"""The disruptions of a sandbox: which one was the last, and how many there were in a row."""

from dataclasses import replace
from datetime import datetime, timedelta

from sandbox_server.domain.observed import Observed
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import DisruptionStatus, Sandbox

OFTEN = 3
"""Disruptions in a row that are an error: a pod that is evicted again and again does not run."""
STEADY = timedelta(minutes=10)
"""How long a sandbox must be RUNNING for its next disruption to be the first of a row, as a kubelet resets its back-off."""


def is_new(sandbox: Sandbox, observed: Observed) -> bool:
    """Whether a disruption is observed that is not recorded yet."""
    return observed.disruption is not None and observed.disruption.pod != sandbox.disrupted_pod


def in_a_row(sandbox: Sandbox, now: datetime) -> int:
    """How many disruptions there were since the sandbox was last RUNNING for `STEADY`."""
    status = sandbox.status
    steady = status.phase is Phase.RUNNING and now - status.transition_time >= STEADY
    return 0 if steady else sandbox.disruptions


def last(sandbox: Sandbox, observed: Observed, now: datetime) -> DisruptionStatus | None:
    """Returns the last disruption of a sandbox's pod, the observed one included."""
    found, known = observed.disruption, sandbox.status.last_disruption
    if found is None:
        return known
    volume = observed.volume
    kept = volume is not None and not volume.terminating and not volume.lost
    message = found.message + ("; the disk is kept" if kept else "")
    if known and not is_new(sandbox, observed):
        # A kubelet gives its reason in the end; the disk may have gone since.
        return replace(known, reason=found.reason, message=message if kept else known.message)
    return DisruptionStatus(found.reason, message, now, in_a_row(sandbox, now) + 1)
