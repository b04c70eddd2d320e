"""Loopback ports, each given to one sandbox at a time."""

import itertools
import math
import random
import socket
import time
from collections.abc import Iterable

from sandbox_server.domain import errors

PROMISED_FOR = 600.0
"""Seconds for which a port that was given waits for its sandbox: a create that fails says nothing of it."""


class Ports:
    """Gives out ports of a range: `give` from the store's thread alone, the others from anywhere."""

    def __init__(self, ports: range) -> None:
        self._range = ports
        self._taken: dict[int, float] = {}

    def take(self, ports: Iterable[int]) -> None:
        """Marks ports as those of a sandbox that exists."""
        self._taken.update(dict.fromkeys(ports, math.inf))

    def free(self, ports: Iterable[int]) -> None:
        """Takes ports back."""
        for port in ports:
            self._taken.pop(port, None)

    def give(self) -> int:
        """A port that no sandbox has and nobody listens on, until `take` marks it or its time has passed.

        Raises `errors.Unavailable` if there is none.
        """
        now, first = time.monotonic(), random.randrange(len(self._range))
        for port in itertools.chain(self._range[first:], self._range[:first]):
            if self._taken.get(port, 0.0) <= now and _is_free(port):
                self._taken[port] = now + PROMISED_FOR
                return port
        told = f"no free port is left in {self._range.start}-{self._range.stop - 1}"
        raise errors.Unavailable("NO_FREE_PORT", f"{told}: delete a sandbox, or have local-ports widened")


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
