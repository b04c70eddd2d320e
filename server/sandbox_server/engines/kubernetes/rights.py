"""What the service needs to do in a namespace of sandboxes, and what the API server has let it do.

For a moment after its start an API server knows no roles, and answers 403 to everything: such a refusal counts once it has
lasted.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from sandbox_server import engines
from sandbox_server.domain.phase import Reason
from sandbox_server.engines.kubernetes.resources import Kind

_CHANGED = ("get", "list", "watch", "create", "patch", "delete")
ROLE: Mapping[Kind, tuple[str, ...]] = {
    Kind.STATEFUL_SET: _CHANGED,
    Kind.INGRESS: _CHANGED,
    Kind.SERVICE: _CHANGED,
    Kind.CLAIM: _CHANGED,
    Kind.SECRET: ("get", "create", "patch", "delete"),
    Kind.POD: ("list", "watch"),
    Kind.EVENT: ("list", "watch"),
}
"""The verbs that the service needs for each kind, and no more. `deploy/role.yaml` grants exactly these."""


ACCESS: Mapping[str, tuple[str, ...]] = {
    "pods": ("get",),
    "pods/log": ("get",),
    # Until Kubernetes 1.35 what is done over WebSocket needs `get`; since then it needs `create` as well.
    "pods/exec": ("get", "create"),
    "pods/portforward": ("get", "create"),
}
"""The verbs that the service needs to work in pods, and no more. `deploy/access.yaml` grants exactly these; an operator may
leave them out."""


RESIZE: Mapping[str, tuple[str, ...]] = {"pods/resize": ("patch",)}
"""The verbs that the service needs to give pods that run other CPU and memory, and no more. `deploy/resize.yaml` grants
exactly these; an operator may leave them out."""

ADOPTION: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("apps", "deployments"): ("get", "list", "delete"),
    ("apps", "replicasets"): ("list",),
    ("", "pods"): ("get", "create", "patch", "delete"),
}
"""The verbs, by group and resource, that the service needs besides to adopt what a former system made, and no more.
`deploy/adoption.yaml` grants exactly these, for as long as the move lasts."""


SNAPSHOTS = ("get", "create", "delete")
"""The verbs that the service needs for VolumeSnapshots, and no more. `deploy/snapshots.yaml` grants exactly these; an operator
may leave them out."""


VERIFICATION = ("get", "create", "delete")
"""The verbs that the service needs for pods to verify snapshots, and no more. `deploy/verification.yaml` grants exactly these; an
operator may leave them out."""


class Withdrawn(engines.Busy):
    """403 for what was allowed before, and not refused for long yet."""


@contextlib.contextmanager
def granted(namespace: str, right: str) -> Iterator[None]:
    """Raises `engines.NotGranted` where a call is forbidden, and `engines.Unreachable` where it is refused otherwise."""
    try:
        yield
    except engines.Refused as refused:
        if not forbidden(refused):
            raise engines.Unreachable(str(refused)) from None
        raise engines.NotGranted(
            f"the service may not {right} in {namespace}: grant it deploy/access.yaml ({refused})"
        ) from None


def forbidden(refused: engines.Refused) -> bool:
    """Whether a call was refused for a right that is missing."""
    return refused.fault.reason is Reason.CLUSTER_FORBIDDEN


class Rights:
    """The rights that were used with success. Each call names its right by `right`.

    `counts_after`: seconds for which a refusal has to last.
    """

    def __init__(self, counts_after: float, now: Callable[[], float] = time.monotonic) -> None:
        self._counts_after = counts_after
        self._now = now
        self._used: set[str] = set()
        self._refused_since: dict[str, float] = {}

    def allowed(self, right: str) -> None:
        """The API server has carried out a call."""
        self._used.add(right)
        self._refused_since.pop(right, None)

    def used(self, right: str) -> bool:
        """Whether the API server has ever allowed it."""
        return right in self._used

    def may_return(self, right: str) -> bool:
        """The API server has refused a call. Returns whether that may pass, because it has not been refused for long enough to
        count."""
        return self._now() - self._refused_since.setdefault(right, self._now()) < self._counts_after


def right(method: str, path: str, watch: bool) -> str:
    """Names what a call needs: the verb follows from the method, and from whether an object is named, or
    a part of it, or a watch asked for."""
    segments = path.split("/")
    kind = 6 if segments[0] == "apis" else 5
    part = "/".join(segments[kind + 1 :])
    return f"{'WATCH' if watch else method} {'/'.join(segments[:kind])} {len(segments) > kind} {part}".rstrip()
