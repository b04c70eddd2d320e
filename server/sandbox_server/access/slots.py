"""Limits the streams that are open at this replica, of each sandbox and of each tenant."""

import collections
import contextlib
from collections.abc import Iterator

from sandbox_server.domain import errors
from sandbox_server.domain.sandbox import Sandbox


class Slots:
    """Counts open streams of one kind."""

    def __init__(self, what: str, of_sandbox: int, of_tenant: int) -> None:
        """`what` names the streams, in the plural."""
        self._what = what
        self._most = {"sandbox": of_sandbox, "tenant": of_tenant}
        self._open = collections.Counter[tuple[str, str]]()

    @contextlib.contextmanager
    def taken(self, sandbox: Sandbox) -> Iterator[None]:
        """Counts one stream while the context is open. Raises `errors.ResourceExhausted`."""
        holders = (("sandbox", sandbox.uid), ("tenant", sandbox.tenant))
        for kind, name in holders:
            if self._open[kind, name] >= self._most[kind]:
                raise errors.ResourceExhausted(
                    "TOO_MANY_STREAMS",
                    f"{self._most[kind]} {self._what} of the {kind} are open at this replica: end one",
                    streams=str(self._most[kind]),
                )
        self._open.update(holders)
        try:
            yield
        finally:
            self._open.subtract(holders)
            for one in holders:
                if self._open[one] == 0:
                    del self._open[one]
