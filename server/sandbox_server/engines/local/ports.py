"""Loopback ports, each given to one sandbox at a time."""

import random
import socket
import threading
from collections.abc import Iterable


class Ports:
    """Gives out ports of a range. Thread-safe: the store's thread asks too."""

    def __init__(self, ports: range) -> None:
        self._range = ports
        self._taken: set[int] = set()
        self._lock = threading.Lock()

    def take(self, ports: Iterable[int]) -> None:
        """Marks ports that sandboxes have already."""
        with self._lock:
            self._taken.update(ports)

    def give(self) -> int:
        """A port that no sandbox has and nobody listens on. Raises OSError if there is none."""
        with self._lock:
            first = random.randrange(len(self._range))
            for offset in range(len(self._range)):
                port = self._range[(first + offset) % len(self._range)]
                if port not in self._taken and _is_free(port):
                    self._taken.add(port)
                    return port
        raise OSError(f"no free loopback port is left in {self._range.start}-{self._range.stop - 1}")

    def free(self, ports: Iterable[int]) -> None:
        """Takes ports back."""
        with self._lock:
            self._taken.difference_update(ports)


def _is_free(port: int) -> bool:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
