"""Whether the disk of a sandbox is nearly full, as it was last measured.

What the status says of it is what the replica before knew, so that neither a restart nor another holder loses it or reports
it again.
"""

from sandbox_server.domain.phase import ConditionType
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.usage import Usage

FAILURES_MOST = 3
"""Measurements that fail in a row, from which on what was measured before is not known any more, as the contract says. One
fails where a sandbox is being restarted, or is busy."""


class Disk:
    """What is known of the disk of one sandbox. `volume`: the uid of the disk that it is about."""

    def __init__(self, volume: str, nearly_full: bool | None) -> None:
        self._volume = volume
        self._nearly_full = nearly_full
        self._failures = 0

    @classmethod
    def of(cls, sandbox: Sandbox) -> "Disk":
        """Returns what the status says."""
        found = [one.status for one in sandbox.status.conditions if one.type is ConditionType.DISK_NEARLY_FULL]
        return cls(sandbox.volume_uid, found[0] if found else None)

    def measured(self, sandbox: Sandbox, usage: Usage | None) -> bool:
        """Takes a measurement of the disk that the sandbox had, None if it failed. Returns whether it has changed anything."""
        before = self.nearly_full(sandbox)
        if sandbox.volume_uid != self._volume:
            self._volume, self._failures = sandbox.volume_uid, 0
        if usage is not None:
            self._failures = 0
            self._nearly_full = usage.nearly_full(before)
        else:
            self._failures += 1
            self._nearly_full = None if self._failures >= FAILURES_MOST else before
        return self._nearly_full is not before

    def nearly_full(self, sandbox: Sandbox) -> bool | None:
        """Returns whether the disk that the sandbox has now is nearly full; None if that is not known."""
        return self._nearly_full if self._volume == sandbox.volume_uid else None
