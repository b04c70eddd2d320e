"""The disruptions of a sandbox: the last one, and how many there were in a row."""

from dataclasses import replace
from datetime import datetime, timedelta

from sandbox_server.domain.observed import Observed
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import DisruptionStatus, Sandbox

OFTEN = 3
"""As many disruptions in a row are an error: a pod that is evicted again and again does no work."""
STEADY = timedelta(minutes=10)
"""After so long in RUNNING the next disruption is the first of a new row. A kubelet resets its back-off after the same time."""


def is_new(sandbox: Sandbox, observed: Observed) -> bool:
    """Whether the observed disruption, if there is one, is not recorded yet."""
    return observed.disruption is not None and observed.disruption.pod != sandbox.disrupted_pod


def in_a_row(sandbox: Sandbox, now: datetime) -> int:
    """Returns how many disruptions there were since the sandbox was last RUNNING for `STEADY`."""
    status = sandbox.status
    steady = status.phase is Phase.RUNNING and now - status.transition_time >= STEADY
    return 0 if steady else sandbox.disruptions


def last(sandbox: Sandbox, observed: Observed, now: datetime) -> DisruptionStatus | None:
    """Returns the last disruption of the sandbox, which is the observed one if there is one."""
    found = observed.disruption
    known = sandbox.status.last_disruption
    if found is None:
        return known
    volume = observed.volume
    volume_kept = volume is not None and not volume.terminating and not volume.lost
    message = f"{found.message}; the disk is kept" if volume_kept else found.message
    if known is None or is_new(sandbox, observed):
        return DisruptionStatus(found.reason, message, now, in_a_row(sandbox, now) + 1)
    # The same disruption as before. The kubelet may have added its reason. Without the disk the message of then stays,
    # since the disk may have been deleted after the disruption.
    return replace(known, reason=found.reason, message=message if volume_kept else known.message)
