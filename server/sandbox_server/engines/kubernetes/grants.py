"""Whether the API server lets the service work in the pods of a namespace."""

import time

from sandbox_server import engines
from sandbox_server.domain.pace import Pace
from sandbox_server.engines.kubernetes import client, inspection


class Grants:
    """Remembers the answers for a while: callers ask as often as they like, and a Role seldom changes."""

    def __init__(self, api: client.Client, pace: Pace) -> None:
        self._api = api
        self._every = pace.grants_every
        self._answers: dict[str, tuple[float, bool]] = {}

    async def granted(self, namespace: str) -> bool | None:
        """Returns whether all of `rights.ACCESS` is granted; None if the API server does not answer."""
        asked_at, granted = self._answers.get(namespace, (0.0, False))
        now = time.monotonic()
        if asked_at and now - asked_at < self._every:
            return granted
        try:
            granted = not await inspection.missing_access(self._api, namespace)
        except (engines.Refused, engines.Unreachable):
            return None
        self._answers[namespace] = (now, granted)
        return granted
