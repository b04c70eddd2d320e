"""The turns of verifications: few have one at once, the others wait in line."""

from sandbox_server.domain.sandbox import Key


class Turns:
    """All methods belong to the event loop. Nobody waits while there is room."""

    def __init__(self, at_once: int) -> None:
        """`at_once`: how many have a turn, unless more are kept."""
        self._at_once = at_once
        self._having: set[Key] = set()
        self._line: dict[Key, None] = {}
        """Those that wait, the longest first."""

    def __len__(self) -> int:
        """The number of those that have a turn."""
        return len(self._having)

    def __contains__(self, key: Key) -> bool:
        return key in self._having

    def take(self, key: Key) -> bool:
        """Returns whether `key` has a turn, now or before. It waits in line otherwise."""
        if key in self._having or len(self._having) < self._at_once:
            self.keep(key)
            return True
        self._line.setdefault(key)
        return False

    def keep(self, key: Key) -> None:
        """Gives a turn to what was begun before, whether there is room or not."""
        self._line.pop(key, None)
        self._having.add(key)

    def end(self, key: Key) -> Key | None:
        """Ends the turn of `key`, or its wait. Returns who got a turn by that; None if nobody did.

        That is who has waited longest, of another namespace if one waits.
        """
        self._line.pop(key, None)
        self._having.discard(key)
        if not self._line or len(self._having) >= self._at_once:
            return None
        others = (one for one in self._line if one.namespace != key.namespace)
        following = next(others, next(iter(self._line)))
        self.keep(following)
        return following
