"""The log lines of calls: one for each mutation, and for refused credentials as many as the disk can take."""

import time
from collections.abc import Callable

import structlog

from sandbox_server.domain.tenant import Tenant

log = structlog.get_logger()

BURST = 10
"""Refusals that are logged one by one before the rate applies."""
EACH = 1.0
"""Seconds between two lines of refusals after that."""


def mutation(
    outcome: tuple[str, str, str], tenant: Tenant | None, sandbox: dict[str, str], request: str, peer: str, took: float
) -> None:
    """Logs a mutation: `outcome` is its method, code and reason, `request` its request id, and `took` its seconds."""
    method, code, reason = outcome
    log.info(
        "call",
        method=method,
        tenant=tenant.name if tenant else "",
        namespace=sandbox.get("namespace", ""),
        sandbox=sandbox.get("sandbox_id", ""),
        request_id=request,
        peer=peer,
        code=code,
        reason=reason,
        ms=round(took * 1000, 1),
    )


class Refusals:
    """Logs calls whose credentials were refused. A line says how many were left out before it.

    Anybody can cause such calls, so that their lines are limited to a rate: `BURST` at once, then one in `EACH`
    seconds. The metrics count all of them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines = float(BURST)
        self._filled = clock()
        self._left_out = 0

    def add(self, method: str, peer: str) -> None:
        """Logs a refused call of `method` by `peer`, if the rate allows it."""
        now = self._clock()
        self._lines = min(BURST, self._lines + (now - self._filled) / EACH)
        self._filled = now
        if self._lines < 1:
            self._left_out += 1
            return
        self._lines -= 1
        log.warning("credentials_refused", method=method, peer=peer, left_out=self._left_out)
        self._left_out = 0
