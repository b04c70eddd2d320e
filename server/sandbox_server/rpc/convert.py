"""Converts messages to domain values and fills in the service's defaults. `render` converts the other way."""

import contextlib
import math
from collections.abc import Iterable, Iterator

from google.protobuf import json_format
from google.protobuf.message import Message
from sandbox.v1 import access_pb2, schedule_pb2, snapshot_pb2
from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server import manager, store
from sandbox_server.domain import check, errors, origins
from sandbox_server.domain.errors import Violation
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.policy import Policy
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.spec import PORTS, Port, Readiness, Resources, SandboxSpec, Storage
from sandbox_server.settings import Defaults

PHASES = {one.value: one for one in Phase}
"""The phases by their numbers in the contract."""

ChangeRequest = pb.StartRequest | pb.StopRequest | pb.DeleteRequest | pb.UpdateEnvVarsRequest | pb.UpdateSandboxRequest
BatchRequest = pb.BatchStartRequest | pb.BatchStopRequest | pb.BatchDeleteRequest
MutationRequest = (
    pb.CreateSandboxRequest
    | pb.CloneSandboxRequest
    | ChangeRequest
    | BatchRequest
    | pb.DeleteVolumeRequest
    | access_pb2.StartExecRequest
    | access_pb2.WriteFileRequest
    | access_pb2.MakeDirectoryRequest
    | access_pb2.RemoveFileRequest
    | access_pb2.MoveFileRequest
    | snapshot_pb2.CreateSnapshotRequest
    | snapshot_pb2.DeleteSnapshotRequest
    | schedule_pb2.CreateScheduleRequest
    | schedule_pb2.UpdateScheduleRequest
    | schedule_pb2.DeleteScheduleRequest
    | snapshot_pb2.VerifySnapshotRequest
)
ReadRequest = pb.GetStatusRequest | pb.GetSandboxRequest


@contextlib.contextmanager
def collecting() -> Iterator[list[Violation]]:
    """Yields a list for violations, and adds those of an `errors.Invalid` that the body raises.

    Raises `errors.Invalid` with all of them, if there are any.
    """
    found: list[Violation] = []
    try:
        yield found
    except errors.Invalid as invalid:
        found += invalid.violations
    if found:
        raise errors.Invalid(tuple(found))


def named(principal: Principal, request: Message) -> dict[str, str]:
    """Returns `sandbox_id`, `snapshot_id`, `schedule_id` and `namespace` of what a request is about, without missing or invalid values."""
    namespace: str = getattr(request, "namespace", "")
    given = {name: getattr(request, name, "") for name in ("sandbox_id", "snapshot_id", "schedule_id")}
    found = {name: text for name, text in given.items() if text and check.sandbox_id.fits(text)}
    names_some = any(given.values()) or bool(getattr(request, "sandbox_ids", ()))
    if not namespace and names_some:
        namespace = principal.default_namespace
    if namespace and check.namespace.fits(namespace):
        found["namespace"] = namespace
    return found


def valid_request_id(request: Message) -> str:
    """Returns the request id of a mutation in lower case; empty if it has none or if it is not a UUID."""
    request_id: str = getattr(request, "request_id", "")
    return request_id.lower() if request_id and check.request_id.fits(request_id) else ""


def from_json(text: str) -> pb.CreateSandboxRequest:
    """Returns the CreateSandboxRequest that `text` is the JSON of. Raises ValueError if it is not one."""
    try:
        return json_format.Parse(text, pb.CreateSandboxRequest())
    except json_format.ParseError as error:
        raise ValueError(f"not a CreateSandboxRequest in JSON: {error}") from None


def creation(
    principal: Principal, request: pb.CreateSandboxRequest, defaults: Defaults, policy: Policy
) -> tuple[Key, SandboxSpec, dict[str, str]]:
    """Returns the key, the spec and the environment of a new sandbox. The id of the key is empty if the caller gave none.

    Raises `errors.Invalid` with every bad field.
    """
    env = dict(request.env)
    namespace = request.namespace or principal.default_namespace
    with collecting() as found:
        found += check.request_id("request_id", request.request_id)
        found += check.sandbox_id("sandbox_id", request.sandbox_id)
        found += check.sandbox_id("snapshot_id", request.snapshot_id)
        if request.snapshot_id and request.adopt_volume:
            found.append(
                Violation("adopt_volume", "must be unset with snapshot_id: the disk is made from the snapshot")
            )
        found += check.env("env", env)
        if principal.reach(namespace).empty:
            found.append(Violation("namespace", "must be one of the tenant's namespaces, or empty for its first"))
        asked = request.spec
        found += policy.violations(asked.annotations, asked.runtime_class, asked.storage.storage_class)
        complete = spec(asked, defaults)
    return Key(namespace, request.sandbox_id), complete, env


def cloning(principal: Principal, request: pb.CloneSandboxRequest) -> tuple[manager.Mutation, origins.Clone]:
    """Returns the mutation that makes a clone, and what the clone is. Raises as `change`."""
    with collecting() as found:
        found += check.request_id("request_id", request.request_id)
        found += check.sandbox_id("clone_id", request.clone_id)
        found += check.project("project", request.project)
        found += check.labels("labels", request.labels)
        found += check.env_change(request.set, request.unset, request.replace)
        found += _bad_names(principal, request)
    source = principal.key(request.namespace, request.sandbox_id)
    clone = origins.Clone(
        source, request.project, dict(request.labels), dict(request.set), tuple(request.unset), request.replace
    )
    return mutation(principal, Key(source.namespace, request.clone_id), request), clone


def spec(message: pb.SandboxSpec, defaults: Defaults) -> SandboxSpec:
    """Returns the spec with defaults filled in. Raises `errors.Invalid` with every bad field."""
    storage = message.storage
    readiness = message.readiness
    ports = tuple(Port(one.name or check.made_name(one.number), one.number) for one in message.ports)
    tcp_port = 0
    if readiness.HasField("tcp_port"):
        # A probe of port 0 is invalid. In the domain 0 is no probe, so that the check would not see it.
        tcp_port = readiness.tcp_port or -1
    grace_period = defaults.grace_period
    if message.HasField("grace_period_seconds"):
        grace_period = message.grace_period_seconds
    copy_image_home = defaults.copy_image_home
    if message.HasField("copy_image_home"):
        copy_image_home = message.copy_image_home
    return SandboxSpec(
        project=message.project,
        image=message.image or defaults.default_image,
        command=tuple(message.command),
        args=tuple(message.args),
        ports=ports or PORTS,
        resources=_resources(message.resources, defaults),
        storage=Storage(
            size=storage.size or defaults.default_storage_size,
            storage_class=storage.storage_class or defaults.storage_class,
            access_mode=storage.access_mode or "ReadWriteOnce",
        ),
        labels=dict(message.labels),
        annotations=dict(message.annotations),
        runtime_class=message.runtime_class,
        readiness=Readiness(readiness.http_path, tcp_port),
        grace_period_seconds=grace_period,
        copy_image_home=copy_image_home,
    )


def unset_storage(message: pb.Storage) -> tuple[str, ...]:
    """Returns the names of the fields that the caller left empty."""
    return tuple(one.name for one in message.DESCRIPTOR.fields if not getattr(message, one.name))


def _resources(asked: pb.Resources, defaults: Defaults) -> Resources:
    cpu_request, cpu_limit = _pair(
        asked.cpu_request, asked.cpu_limit, defaults.default_cpu_request, defaults.default_cpu_limit, check.cpu
    )
    memory_request, memory_limit = _pair(
        asked.memory_request,
        asked.memory_limit,
        defaults.default_memory_request,
        defaults.default_memory_limit,
        check.memory,
    )
    return Resources(cpu_request, cpu_limit, memory_request, memory_limit)


def _pair(request: str, limit: str, default_request: str, default_limit: str, kind: check.Kind) -> tuple[str, str]:
    """Returns a request and a limit, each with its default if the caller left it empty.

    A default limit is raised to the caller's request, and a default request lowered to the caller's limit.
    """
    if request and not limit:
        limit = max(default_limit, request, key=lambda one: kind.fits(one) or 0)
    if limit and not request:
        request = min(default_request, limit, key=lambda one: kind.fits(one) or math.inf)
    return request or default_request, limit or default_limit


def change(principal: Principal, request: ChangeRequest, violations: Iterable[Violation] = ()) -> manager.Mutation:
    """Returns the mutation of a sandbox that exists.

    Raises `errors.Invalid` with `violations` and every other bad field, and `errors.NotFound` for another tenant's
    namespace.
    """
    expected = request.expected_generation if request.HasField("expected_generation") else None
    with collecting() as found:
        found += check.request_id("request_id", request.request_id)
        if expected is not None and expected < 1:
            found.append(Violation("expected_generation", "must be a generation: 1 or more"))
        if isinstance(request, pb.UpdateEnvVarsRequest):
            found += check.env_change(request.set, request.unset, request.replace)
        found += violations
        found += _bad_names(principal, request)
    return mutation(principal, principal.key(request.namespace, request.sandbox_id), request, expected)


def volume_deletion(principal: Principal, request: pb.DeleteVolumeRequest) -> manager.Mutation:
    """Returns the mutation of a deleted sandbox whose disk is to be removed. Raises as `change`."""
    with collecting() as found:
        found += check.request_id("request_id", request.request_id)
        found += _bad_names(principal, request)
    return mutation(principal, principal.key(request.namespace, request.sandbox_id), request)


def mutation(
    principal: Principal, key: Key, request: MutationRequest, expected_generation: int | None = None
) -> manager.Mutation:
    """Returns what all mutations of sandboxes have in common. Clears `request.request_id`."""
    method = type(request).__name__.removesuffix("Request")
    return manager.Mutation(principal, key, identity(principal, request), expected_generation, method)


def identity(principal: Principal, request: MutationRequest) -> store.Request | None:
    """Returns the identity of a mutation; None if it has no request id. Clears that: what is left is the payload."""
    request_id = request.request_id.lower()
    request.ClearField("request_id")
    payload = type(request).__name__.encode() + b"\0" + request.SerializeToString(deterministic=True)
    return store.Request(principal.name, request_id, payload) if request_id else None


def read(principal: Principal, request: ReadRequest) -> Key:
    """Returns the key of a sandbox to read. Raises `errors.Invalid`, and `errors.NotFound` for another tenant's
    namespace."""
    with collecting() as found:
        if request.min_sequence < 0:
            found.append(Violation("min_sequence", "must not be negative"))
        found += _bad_names(principal, request)
    return principal.key(request.namespace, request.sandbox_id)


def _bad_names(
    principal: Principal, request: ChangeRequest | ReadRequest | pb.DeleteVolumeRequest | pb.CloneSandboxRequest
) -> Iterator[Violation]:
    yield from check.sandbox_id("sandbox_id", request.sandbox_id, True)
    yield from bad_namespace(principal, request.namespace)


def bad_namespace(principal: Principal, namespace: str, names_sandboxes: bool = True) -> Iterator[Violation]:
    """Yields the violation of a namespace. An operator that `names_sandboxes` must say where they are."""
    if names_sandboxes and not namespace and not principal.default_namespace:
        yield Violation("namespace", "is required with an operator's token: an id can be in any tenant's namespace")
    yield from check.namespace("namespace", namespace)
