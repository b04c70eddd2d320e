"""How full disks are."""

from dataclasses import dataclass

FULL_FROM = 90
"""Percent of a disk from which on it is nearly full, as the contract says."""
ROOM_BELOW = 85
"""Percent below which a disk that was nearly full is so no more: what goes up and down around one limit is no news."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How full a disk is, in bytes and in inodes. A file system that has as many inodes as it needs says that it has 0."""

    used: int
    capacity: int
    used_inodes: int
    inodes: int

    def nearly_full(self, before: bool | None) -> bool | None:
        """Returns whether the disk is nearly full; `before` is what it was. None if the file system says of nothing how much
        there is."""
        shares = ((self.used, self.capacity), (self.used_inodes, self.inodes))
        percent = [100 * used / capacity for used, capacity in shares if capacity]
        return max(percent) >= (ROOM_BELOW if before else FULL_FROM) if percent else None
