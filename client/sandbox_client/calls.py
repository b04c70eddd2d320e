"""The unary calls, for both clients: the request of each, and what it returns."""

import inspect
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_client import specs
from sandbox_client.status import Status

T = TypeVar("T")

Named = str | pb.Sandbox | pb.SandboxStatus | Status
"""A sandbox by its id, or as an answer of the service, which has its namespace too."""
PAGE = 500
"""Entries of each page where a list is read as a whole."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A unary call. `part` is the field of the answer that the call returns, or empty for the whole answer.

    `timeout` is in seconds for all tries together; None for the client's own.
    """

    method: str
    request: Any
    part: str
    timeout: float | None

    def result(self, answer: Any) -> T:
        """Returns what the caller gets of an answer."""
        return getattr(answer, self.part) if self.part else answer  # type: ignore[no-any-return]


def phase(name: str | int) -> "pb.Phase.ValueType":
    """Returns a phase by its number, or its name with or without PHASE_. Raises ValueError for an unknown name."""
    if isinstance(name, int):
        return name  # type: ignore[return-value]
    return pb.Phase.Value("PHASE_" + name.upper().removeprefix("PHASE_"))


def signature(make: Callable[..., Any]) -> inspect.Signature:
    """Returns the signature of the method of a client that makes the call of `make`, for `help` and editors."""
    own = inspect.signature(make)
    (answer,) = typing.get_args(own.return_annotation)
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    return own.replace(parameters=[first, *own.parameters.values()], return_annotation=answer)


def target(sandbox: Named | pb.KeptVolume, namespace: str) -> tuple[str, str]:
    """Returns the id of a sandbox, and `namespace` or else the namespace that the sandbox comes with."""
    if isinstance(sandbox, str):
        return sandbox, namespace
    return sandbox.sandbox_id, namespace or sandbox.namespace


def generation(sandbox: Named) -> int:
    """Returns the generation that a sandbox comes with, 0 if only its id is given."""
    if isinstance(sandbox, str):
        return 0
    return sandbox.status.generation if isinstance(sandbox, pb.Sandbox) else sandbox.generation


def create(
    project: str,
    *,
    image: str = "",
    command: Iterable[str] = (),
    args: Iterable[str] = (),
    ports: Iterable[int | pb.Port] = (),
    labels: Mapping[str, str] | None = None,
    resources: specs.Resources | None = None,
    storage: str = "",
    ready: str | int = "",
    env: Mapping[str, str] | None = None,
    sandbox_id: str = "",
    namespace: str = "",
    spec: pb.SandboxSpec | None = None,
    adopt_volume: bool = False,
    snapshot_id: str = "",
    request_id: str = "",
    timeout: float | None = None,
) -> Call[pb.Sandbox]:
    """Creates a sandbox that runs. The client itself repeats the call if need be.

    `storage` is the size of the disk. `ready` is the path that must answer before it is RUNNING, or the port that must
    accept connections. `snapshot_id` is that of the snapshot which the disk is made from. `spec` is for everything else that the contract has; where both have a value, an argument counts.

    >>> made = client.create(
    ...     "demo",
    ...     image="python:3.13-slim",
    ...     command=["sleep", "1000"],
    ...     ports=[8080],
    ...     labels={"tier": "web"},
    ...     resources={"cpu_limit": "2", "memory_limit": "2Gi"},
    ...     env={"GREETING": "hello"},
    ... )
    >>> client.wait_until(made, "RUNNING", fail_on_error=True).message
    'the pod is ready'
    """
    asked = specs.merged(
        spec,
        project=project,
        image=image,
        command=command,
        args=args,
        ports=ports,
        labels=labels,
        resources=resources,
        storage=storage,
        ready=ready,
    )
    request = pb.CreateSandboxRequest(
        request_id=request_id or str(uuid.uuid4()),
        sandbox_id=sandbox_id,
        namespace=namespace,
        spec=asked,
        env=env or {},
        adopt_volume=adopt_volume,
        snapshot_id=snapshot_id,
    )
    return Call("CreateSandbox", request, "sandbox", timeout)


def start(
    sandbox: Named,
    *,
    namespace: str = "",
    accept_data_loss: bool = False,
    expected_generation: int | None = None,
    request_id: str = "",
    timeout: float | None = None,
) -> Call[pb.Sandbox]:
    """Sets the desired state RUNNING."""
    request = pb.StartRequest(
        **_named(sandbox, namespace, expected_generation, request_id), accept_data_loss=accept_data_loss
    )
    return Call("Start", request, "sandbox", timeout)


def stop(
    sandbox: Named,
    *,
    namespace: str = "",
    expected_generation: int | None = None,
    request_id: str = "",
    timeout: float | None = None,
) -> Call[pb.Sandbox]:
    """Sets the desired state STOPPED; the disk stays."""
    request = pb.StopRequest(**_named(sandbox, namespace, expected_generation, request_id))
    return Call("Stop", request, "sandbox", timeout)


def delete(
    sandbox: Named,
    *,
    namespace: str = "",
    keep_volume: bool = False,
    expected_generation: int | None = None,
    request_id: str = "",
    timeout: float | None = None,
) -> Call[pb.Sandbox]:
    """Removes the sandbox, with its disk unless that is kept; of a deleted one, the disk that was kept."""
    request = pb.DeleteRequest(**_named(sandbox, namespace, expected_generation, request_id), keep_volume=keep_volume)
    return Call("Delete", request, "sandbox", timeout)


def update_env(
    sandbox: Named,
    *,
    set: Mapping[str, str] | None = None,  # noqa: A002 - the contract's name
    unset: Iterable[str] = (),
    replace: bool = False,
    namespace: str = "",
    expected_generation: int | None = None,
    request_id: str = "",
    timeout: float | None = None,
) -> Call[pb.Sandbox]:
    """Changes environment variables. With `replace` the sandbox then has exactly those in `set`.

    >>> made = client.create("demo", command=["sleep", "1000"])
    >>> changed = client.update_env(made, set={"COLOUR": "blue"}, unset=["GREETING"])
    >>> changed.env_names
    ['COLOUR']
    >>> client.wait_until(changed, "RUNNING").generation
    2
    """
    request = pb.UpdateEnvVarsRequest(
        **_named(sandbox, namespace, expected_generation, request_id), set=set or {}, unset=unset, replace=replace
    )
    return Call("UpdateEnvVars", request, "sandbox", timeout)


def status(
    sandbox: Named,
    *,
    namespace: str = "",
    min_sequence: int = 0,
    include_usage: bool = False,
    timeout: float | None = None,
) -> Call[pb.SandboxStatus]:
    """Returns the current status. With `min_sequence` it is no older than that sequence.

    With `include_usage` it has `usage`, how full the disk is, where that can be measured: `volume_usage` raises why it
    cannot.

    >>> made = client.create("demo", command=["sleep", "1000"])
    >>> status = Status.of(client.wait_until(made, "RUNNING"))
    >>> print(status.phase, status.reason, status.since.tzname())
    RUNNING READY UTC
    """
    sandbox_id, namespace = target(sandbox, namespace)
    request = pb.GetStatusRequest(
        sandbox_id=sandbox_id, namespace=namespace, min_sequence=min_sequence, include_usage=include_usage
    )
    return Call("GetStatus", request, "status", timeout)


def get(
    sandbox: Named, *, namespace: str = "", min_sequence: int = 0, timeout: float | None = None
) -> Call[pb.Sandbox]:
    """Returns the sandbox with its spec. With `min_sequence` it is no older than that sequence."""
    sandbox_id, namespace = target(sandbox, namespace)
    request = pb.GetSandboxRequest(sandbox_id=sandbox_id, namespace=namespace, min_sequence=min_sequence)
    return Call("GetSandbox", request, "sandbox", timeout)


def page(
    *,
    namespace: str = "",
    project: str = "",
    label_selector: str = "",
    phases: Iterable[str | int] = (),
    tenant: str = "",
    page_size: int = 0,
    page_token: str = "",
    volume_kept: bool = False,
    basic: bool = False,
    timeout: float | None = None,
) -> Call[pb.ListSandboxesResponse]:
    """Returns a page of sandboxes and the token of the next page.

    `volume_kept`: only deleted sandboxes whose disk was kept. `basic`: without specs and the names of variables.
    `tenant` is for operators.
    """
    request = pb.ListSandboxesRequest(
        namespace=namespace,
        project=project,
        label_selector=label_selector,
        phases=[phase(one) for one in phases],
        tenant=tenant,
        page_size=page_size,
        page_token=page_token,
        volume_kept=volume_kept,
        view=pb.SANDBOX_VIEW_BASIC if basic else pb.SANDBOX_VIEW_FULL,
    )
    return Call("ListSandboxes", request, "", timeout)


def _named(sandbox: Named, namespace: str, expected: int | None, request_id: str) -> dict[str, Any]:
    sandbox_id, namespace = target(sandbox, namespace)
    return {
        "sandbox_id": sandbox_id,
        "namespace": namespace,
        "expected_generation": expected,
        "request_id": request_id or str(uuid.uuid4()),
    }
