"""Holds back the writes of an act whose lease has ended."""

from collections.abc import Callable

from sandbox_server import engines


class Fence:
    """Lets an act write for as long as this replica holds the namespace under the epoch in which the act began.

    It is asked without an `await` between the answer and the sending. A write that was sent before the lease ended, and
    arrives later, is refused by the API server, since each write names what it changes as it was known before.
    """

    def __init__(self, held: Callable[[str], int], namespace: str) -> None:
        """`held`: see `engines.Cluster.open`."""
        self._held = held
        self._namespace = namespace
        self._epoch = held(namespace)

    def check(self) -> None:
        """Raises `engines.NotHeld` unless the namespace is still held under the same epoch."""
        if not self._epoch or self._held(self._namespace) != self._epoch:
            raise engines.NotHeld(f"another replica may hold {self._namespace} by now")
