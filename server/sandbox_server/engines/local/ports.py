"""Loopback ports, each of one sandbox at a time."""

import itertools
import random
import socket
import time
from collections.abc import Iterable

from sandbox_server.domain import errors


class Ports:
    """Allots ports of a range. `allot` is for the store's thread alone, the other methods for any thread."""

    def __init__(self, ports: range, promised_for: float) -> None:
        """`promised_for`: seconds for which an allotted port waits to be reserved."""
        self._range = ports
        self._promised_for = promised_for
        self._reserved: set[int] = set()
        self._promised_until: dict[int, float] = {}

    def reserve(self, ports: Iterable[int]) -> None:
        """Marks ports as those of a sandbox that exists, until they are released."""
        self._reserved.update(ports)

    def release(self, ports: Iterable[int]) -> None:
        """Makes ports available again."""
        for port in ports:
            self._reserved.discard(port)
            self._promised_until.pop(port, None)

    def allot(self) -> int:
        """Returns a port that no sandbox has and nobody listens on. It is allotted again if not reserved in time.

        Raises `errors.Unavailable` if there is none.
        """
        now = time.monotonic()
        # A random start makes it unlikely that a released port is soon allotted again.
        first = random.randrange(len(self._range))
        for port in itertools.chain(self._range[first:], self._range[:first]):
            if not self._is_taken(port, now) and _is_free(port):
                self._promised_until[port] = now + self._promised_for
                return port
        message = f"no free port is left in {self._range.start}-{self._range.stop - 1}"
        raise errors.Unavailable("NO_FREE_PORT", f"{message}: delete a sandbox, or have local-ports widened")

    def _is_taken(self, port: int, now: float) -> bool:
        promised_until = self._promised_until.get(port)
        return port in self._reserved or (promised_until is not None and now < promised_until)


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
