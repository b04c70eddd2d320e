"""The unary calls, for both clients: the request of each, and what it returns."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sandbox.v1 import sandbox_pb2 as pb

T = TypeVar("T")


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


def create(
    project: str,
    *,
    sandbox_id: str = "",
    namespace: str = "",
    env: Mapping[str, str] | None = None,
    spec: pb.SandboxSpec | None = None,
    adopt_volume: bool = False,
    request_id: str = "",
    timeout: float | None = None,
) -> Call[pb.Sandbox]:
    """Creates a sandbox. `spec` may have everything but the project. The client itself repeats the call if need be."""
    asked = pb.SandboxSpec()
    if spec is not None:
        asked.CopyFrom(spec)
    asked.project = project
    request = pb.CreateSandboxRequest(
        request_id=request_id or str(uuid.uuid4()),
        sandbox_id=sandbox_id,
        namespace=namespace,
        spec=asked,
        env=env or {},
        adopt_volume=adopt_volume,
    )
    return Call("CreateSandbox", request, "sandbox", timeout)


def start(
    sandbox_id: str,
    *,
    namespace: str = "",
    accept_data_loss: bool = False,
    expected_generation: int | None = None,
    request_id: str = "",
    timeout: float | None = None,
) -> Call[pb.Sandbox]:
    """Sets the desired state RUNNING."""
    request = pb.StartRequest(
        **_named(sandbox_id, namespace, expected_generation, request_id), accept_data_loss=accept_data_loss
    )
    return Call("Start", request, "sandbox", timeout)


def stop(
    sandbox_id: str,
    *,
    namespace: str = "",
    expected_generation: int | None = None,
    request_id: str = "",
    timeout: float | None = None,
) -> Call[pb.Sandbox]:
    """Sets the desired state STOPPED; the disk stays."""
    request = pb.StopRequest(**_named(sandbox_id, namespace, expected_generation, request_id))
    return Call("Stop", request, "sandbox", timeout)


def delete(
    sandbox_id: str,
    *,
    namespace: str = "",
    keep_volume: bool = False,
    expected_generation: int | None = None,
    request_id: str = "",
    timeout: float | None = None,
) -> Call[pb.Sandbox]:
    """Removes the sandbox, with its disk unless that is kept; of a deleted one, the disk that was kept."""
    request = pb.DeleteRequest(
        **_named(sandbox_id, namespace, expected_generation, request_id), keep_volume=keep_volume
    )
    return Call("Delete", request, "sandbox", timeout)


def update_env(
    sandbox_id: str,
    *,
    set: Mapping[str, str] | None = None,  # noqa: A002 - the contract's name
    unset: Iterable[str] = (),
    replace: bool = False,
    namespace: str = "",
    expected_generation: int | None = None,
    request_id: str = "",
    timeout: float | None = None,
) -> Call[pb.Sandbox]:
    """Changes environment variables. With `replace` the sandbox then has exactly those in `set`."""
    request = pb.UpdateEnvVarsRequest(
        **_named(sandbox_id, namespace, expected_generation, request_id), set=set or {}, unset=unset, replace=replace
    )
    return Call("UpdateEnvVars", request, "sandbox", timeout)


def status(
    sandbox_id: str, *, namespace: str = "", min_sequence: int = 0, timeout: float | None = None
) -> Call[pb.SandboxStatus]:
    """Returns the current status. With `min_sequence` it is no older than that sequence."""
    request = pb.GetStatusRequest(sandbox_id=sandbox_id, namespace=namespace, min_sequence=min_sequence)
    return Call("GetStatus", request, "status", timeout)


def get(
    sandbox_id: str, *, namespace: str = "", min_sequence: int = 0, timeout: float | None = None
) -> Call[pb.Sandbox]:
    """Returns the sandbox with its spec. With `min_sequence` it is no older than that sequence."""
    request = pb.GetSandboxRequest(sandbox_id=sandbox_id, namespace=namespace, min_sequence=min_sequence)
    return Call("GetSandbox", request, "sandbox", timeout)


def page(
    *,
    namespace: str = "",
    project: str = "",
    label_selector: str = "",
    phases: Iterable[str | int] = (),
    page_size: int = 0,
    page_token: str = "",
    volume_kept: bool = False,
    basic: bool = False,
    timeout: float | None = None,
) -> Call[pb.ListSandboxesResponse]:
    """Returns a page of sandboxes and the token of the next page.

    `volume_kept`: only deleted sandboxes whose disk was kept. `basic`: without specs and the names of variables.
    """
    request = pb.ListSandboxesRequest(
        namespace=namespace,
        project=project,
        label_selector=label_selector,
        phases=[phase(one) for one in phases],
        page_size=page_size,
        page_token=page_token,
        volume_kept=volume_kept,
        view=pb.SANDBOX_VIEW_BASIC if basic else pb.SANDBOX_VIEW_FULL,
    )
    return Call("ListSandboxes", request, "", timeout)


def _named(sandbox_id: str, namespace: str, expected: int | None, request_id: str) -> dict[str, Any]:
    return {
        "sandbox_id": sandbox_id,
        "namespace": namespace,
        "expected_generation": expected,
        "request_id": request_id or str(uuid.uuid4()),
    }
