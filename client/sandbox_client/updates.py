"""The call that changes the spec of a sandbox."""

import uuid
from collections.abc import Iterable, Mapping

from google.protobuf import field_mask_pb2
from sandbox.v1 import sandbox_pb2 as pb

from sandbox_client import calls, specs


def update(
    sandbox: calls.Named,
    *,
    image: str | None = None,
    command: Iterable[str] | None = None,
    args: Iterable[str] | None = None,
    ports: Iterable[int | pb.Port] | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    resources: specs.Resources | None = None,
    storage: str | None = None,
    ready: str | int | None = None,
    grace_period_seconds: int | None = None,
    namespace: str = "",
    expected_generation: int | None = None,
    request_id: str = "",
    timeout: float | None = None,
) -> calls.Call[pb.UpdateSandboxResponse]:
    """Changes the parts of the spec that are not None. An empty value is the service's default, as at a create.

    Of `resources` the members that are given change. `storage` is the size of the disk, which grows while the sandbox runs and
    does not shrink. The answer has the sandbox, the paths of the spec that hold already
    (`applied`), and those that wait for a restart, the disk or the pod (`pending`).

    >>> made = client.create("demo", command=["sleep", "1000"])
    >>> answer = client.update(made, command=["sleep", "2000"], labels={"tier": "web"})
    >>> print(answer.applied.paths, answer.pending.paths)
    ['labels'] ['command']
    >>> client.wait_until(answer.sandbox, "RUNNING").generation
    2
    """
    spec = specs.merged(
        None,
        project="",
        image=image or "",
        command=command or (),
        args=args or (),
        ports=ports or (),
        labels=labels,
        resources=resources,
        storage=storage or "",
        ready=ready or "",
    )
    spec.annotations.update(annotations or {})
    if grace_period_seconds is not None:
        spec.grace_period_seconds = grace_period_seconds
    given = {
        "image": image,
        "command": command,
        "args": args,
        "ports": ports,
        "labels": labels,
        "annotations": annotations,
        "storage.size": storage,
        "readiness": ready,
        "grace_period_seconds": grace_period_seconds,
    }
    paths = [name for name, value in given.items() if value is not None]
    if resources is not None:
        paths += [f"resources.{member}" for member in resources] or ["resources"]
    sandbox_id, namespace = calls.target(sandbox, namespace)
    request = pb.UpdateSandboxRequest(
        sandbox_id=sandbox_id,
        namespace=namespace,
        expected_generation=expected_generation,
        request_id=request_id or str(uuid.uuid4()),
        spec=spec,
        update_mask=field_mask_pb2.FieldMask(paths=paths),
    )
    return calls.Call("UpdateSandbox", request, "", timeout)
