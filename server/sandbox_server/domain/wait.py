"""A wait for a phase: when it ends, and how. The rules are those of the Python client's `wait_until`."""

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta

from sandbox_server.domain import remedy
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.remedy import Remedy
from sandbox_server.domain.sandbox import Sandbox

PATIENCE = 120.0
"""Seconds for which an error that may pass is tolerated by default. An autoscaler needs about a minute to add a node."""

_FINAL = (Remedy.UNSPECIFIED, Remedy.CALLER)
"""The remedies with which an error ends a wait at once: nothing changes until the caller acts."""


class Outcome(enum.Enum):
    """How a wait stands. Numbers and meanings are those of `WaitOutcome` in the contract."""

    REACHED = 1
    PENDING = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class Wait:
    """What is waited for: a phase at `generation` or later.

    With `fail_on_error` the wait fails by ERROR: at once if the caller has to act, else after `patience` in ERROR.
    """

    phase: Phase
    generation: int = 0
    fail_on_error: bool = False
    patience: timedelta = timedelta(seconds=PATIENCE)

    def outcome(self, sandbox: Sandbox, now: datetime) -> Outcome:
        """Returns how the wait stands with `sandbox` as it is at `now`."""
        if sandbox.generation < self.generation:
            return Outcome.PENDING
        phase = sandbox.status.phase
        if phase is self.phase:
            return Outcome.REACHED
        if phase is Phase.TERMINATED:
            return Outcome.FAILED
        if phase is not Phase.ERROR or not self.fail_on_error:
            return Outcome.PENDING
        end = self.patience_end(sandbox)
        return Outcome.FAILED if end is None or end <= now else Outcome.PENDING

    def patience_end(self, sandbox: Sandbox) -> datetime | None:
        """Returns until when the error of `sandbox` is tolerated; None if it has none, or one that is not tolerated."""
        status = sandbox.status
        if status.phase is not Phase.ERROR or not self.fail_on_error or remedy.of(status.reason) in _FINAL:
            return None
        return status.transition_time + self.patience
