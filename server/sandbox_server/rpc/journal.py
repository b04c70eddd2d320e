"""Logs calls: a line for each mutation, and a limited number of lines for calls with bad credentials."""

import time
from collections.abc import Callable

import structlog

from sandbox_server.domain.principal import Operator, Principal

log = structlog.get_logger()

BURST = 10
"""Lines that may be logged at once before the rate limit applies."""
EACH = 1.0
"""Seconds between two lines after that."""


def mutation(
    outcome: tuple[str, str, str],
    principal: Principal | None,
    sandbox: dict[str, str],
    request_id: str,
    peer: str,
    seconds: float,
) -> None:
    """Logs a mutation. `outcome` is its method, code and reason, `seconds` the time it took. `sandbox` names what it is about.

    The line names the caller: `tenant`, or `operator`, whose mutation is of the tenant that has the namespace.
    """
    method, code, reason = outcome
    operator = principal.name if isinstance(principal, Operator) else ""
    snapshot = {"snapshot": sandbox["snapshot_id"]} if "snapshot_id" in sandbox else {}
    log.info(
        "call",
        method=method,
        tenant=principal.tenant if principal else "",
        operator=operator,
        namespace=sandbox.get("namespace", ""),
        sandbox=sandbox.get("sandbox_id", ""),
        **snapshot,
        request_id=request_id,
        peer=peer,
        code=code,
        reason=reason,
        ms=round(seconds * 1000, 1),
    )


class Refusals:
    """Logs calls whose credentials were refused: `BURST` lines at once, then a line every `EACH` seconds.

    Anybody can cause such calls, and they must not fill the disk. A line counts the calls that were left out before
    it; the metrics count all of them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines = float(BURST)
        self._filled = clock()
        self._left_out = 0

    def add(self, method: str, peer: str) -> None:
        """Logs a refused call of `method` by `peer`, if the rate limit allows it."""
        now = self._clock()
        self._lines = min(BURST, self._lines + (now - self._filled) / EACH)
        self._filled = now
        if self._lines < 1:
            self._left_out += 1
            return
        self._lines -= 1
        log.warning("credentials_refused", method=method, peer=peer, left_out=self._left_out)
        self._left_out = 0
