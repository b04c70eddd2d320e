"""The spec of a sandbox from plain Python values."""

from collections.abc import Iterable, Mapping
from typing import TypedDict

from sandbox.v1 import sandbox_pb2 as pb


class Resources(TypedDict, total=False):
    """CPU in cores (`500m`, `2`) and memory in bytes (`512Mi`, `2Gi`), as Kubernetes quantities."""

    cpu_request: str
    cpu_limit: str
    memory_request: str
    memory_limit: str


def merged(
    spec: pb.SandboxSpec | None,
    *,
    project: str,
    image: str,
    command: Iterable[str],
    args: Iterable[str],
    ports: Iterable[int | pb.Port],
    labels: Mapping[str, str] | None,
    resources: Resources | None,
    storage: str,
    ready: str | int,
) -> pb.SandboxSpec:
    """Returns a copy of `spec` in which the values that are given replace its own; labels are added.

    Raises TypeError for a command or arguments that are one string: each word would be a character.
    """
    for name, words in (("command", command), ("args", args)):
        if isinstance(words, str):
            raise TypeError(f"{name} must be a list of words, not one string")
    whole = pb.SandboxSpec()
    if spec is not None:
        whole.CopyFrom(spec)
    whole.project = project
    given = pb.SandboxSpec(
        image=image,
        command=command,
        args=args,
        ports=[pb.Port(number=one) if isinstance(one, int) else one for one in ports],
        labels=labels or {},
        resources=pb.Resources(**(resources or {})),
        storage=pb.Storage(size=storage),
        readiness=_readiness(ready),
    )
    for repeated in ("command", "args", "ports"):
        if getattr(given, repeated):
            whole.ClearField(repeated)
    whole.MergeFrom(given)
    return whole


def _readiness(ready: str | int) -> pb.Readiness | None:
    if not ready:
        return None
    return pb.Readiness(tcp_port=ready) if isinstance(ready, int) else pb.Readiness(http_path=ready)
