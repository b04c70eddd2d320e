"""The first contact with the service, which has less time than a call: a wrong address is told from an outage by it.

gRPC reports a failed connection only to a call, and a call also waits for a name server or a silent listener.
"""

import grpc
from sandbox.v1 import sandbox_pb2 as pb

from sandbox_client import errors

WITHIN = 3.0
"""Seconds for the first contact. A restart of the service takes about one."""
PROBE = pb.ListSandboxesRequest(page_size=1)
"""The request of the call that has gRPC say why there was no contact."""
PROBE_TIMEOUT = 0.2
"""Seconds for that call: gRPC fails it at once after a failed connection."""


def within(seconds: float, left: float | None) -> float:
    """Returns the seconds for the first contact of a call that has `left` seconds, None for no limit."""
    return seconds if left is None else min(seconds, left)


def failure(error: errors.ServiceError, address: str, seconds: float) -> errors.Unavailable | None:
    """Returns what to raise after the probe failed with `error`; None if the service itself has answered."""
    if error.reason:
        return None
    if isinstance(error, errors.Unavailable):
        return error
    if isinstance(error, errors.TimedOut):
        message = f"nothing answered at {address} within {seconds:.3g} s"
        return errors.Unavailable(message, grpc.StatusCode.UNAVAILABLE)
    return None
