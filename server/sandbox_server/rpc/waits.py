"""WaitForPhase: its request and its answer."""

import math
from collections.abc import Iterator
from datetime import timedelta

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server import feed
from sandbox_server.domain import check, errors, wait
from sandbox_server.domain.errors import Violation
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key
from sandbox_server.rpc import convert, render

WAIT_MOST = 30.0
"""Seconds that one call waits. Proxies and load balancers often end a call that is silent for a minute."""
_PATIENCE_MOST = timedelta(days=365)


def asked(principal: Principal, request: pb.WaitForPhaseRequest) -> tuple[Key, wait.Wait]:
    """Returns the sandbox and what to wait for. Raises `errors.Invalid`, and `errors.NotFound` for another tenant's
    namespace."""
    found = [
        *check.sandbox_id("sandbox_id", request.sandbox_id, True),
        *convert.bad_namespace(principal, request.namespace),
    ]
    if request.phase not in convert.PHASES:
        found.append(Violation("phase", "must be a phase"))
    if request.generation < 0:
        found.append(Violation("generation", "must not be negative"))
    found += _bad_seconds("patience_seconds", request.patience_seconds)
    found += _bad_seconds("timeout_seconds", request.timeout_seconds)
    if found:
        raise errors.Invalid(tuple(found))
    patience = request.patience_seconds if request.HasField("patience_seconds") else wait.PATIENCE
    awaited = wait.Wait(
        convert.PHASES[request.phase],
        request.generation,
        request.fail_on_error,
        timedelta(seconds=min(patience, _PATIENCE_MOST.total_seconds())),
    )
    return principal.key(request.namespace, request.sandbox_id), awaited


def _bad_seconds(field: str, value: float) -> Iterator[Violation]:
    # NaN is neither less than 0 nor more.
    if not value >= 0:
        yield Violation(field, "must be a number of seconds, 0 or more")


def seconds(request: pb.WaitForPhaseRequest, caller_allows: float | None) -> float:
    """Returns the seconds to wait. `caller_allows` is the time until the caller's deadline, None without one.

    A tenth of that time, one second at most, is left for the answer to arrive.
    """
    asked_for = request.timeout_seconds if request.HasField("timeout_seconds") else math.inf
    allowed = math.inf if caller_allows is None else caller_allows - min(1.0, caller_allows / 10)
    return min(asked_for, allowed, WAIT_MOST)


def answer(last: feed.Encoded, outcome: wait.Outcome, stale: bool) -> bytes:
    """Returns the answer. The status of an event is encoded once for all callers."""
    rest = pb.WaitForPhaseResponse(outcome=outcome.value)  # type: ignore[arg-type]
    if stale:
        rest.status.MergeFrom(pb.SandboxStatus(**render.status(last.event, stale=True)))
        return rest.SerializeToString()
    # The status has the same field number in the answer to GetStatus. Protobuf reads concatenated messages as one.
    return last.status + rest.SerializeToString()
