"""Converts messages to domain values and fills in the service's defaults. `render` converts the other way."""

import contextlib
import math
from collections.abc import Iterable, Iterator

from google.protobuf import json_format
from google.protobuf.message import Message
from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server import feed, manager, store
from sandbox_server.domain import check, errors, selector
from sandbox_server.domain.errors import Violation
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.policy import Policy
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.spec import PORTS, Port, Readiness, Resources, SandboxSpec, Storage
from sandbox_server.settings import Defaults

WATCHED_MOST = 1000
TENANT_MOST = 1024
"""Characters of the tenant of a filter, which stays in memory with a watch."""
PHASES = {one.value: one for one in Phase}
"""The phases by their numbers in the contract."""

ChangeRequest = pb.StartRequest | pb.StopRequest | pb.DeleteRequest | pb.UpdateEnvVarsRequest | pb.UpdateSandboxRequest
BatchRequest = pb.BatchStartRequest | pb.BatchStopRequest | pb.BatchDeleteRequest
MutationRequest = pb.CreateSandboxRequest | ChangeRequest | BatchRequest
ReadRequest = pb.GetStatusRequest | pb.GetSandboxRequest


@contextlib.contextmanager
def _collecting() -> Iterator[list[Violation]]:
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
    """Returns `sandbox_id` and `namespace` of the sandbox that a request is about, without missing or invalid values."""
    sandbox_id: str = getattr(request, "sandbox_id", "")
    namespace: str = getattr(request, "namespace", "")
    found = {}
    if sandbox_id and check.sandbox_id.fits(sandbox_id):
        found["sandbox_id"] = sandbox_id
    names_several = bool(getattr(request, "sandbox_ids", ()))
    if not namespace and (sandbox_id or names_several):
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
    with _collecting() as found:
        found += check.request_id("request_id", request.request_id)
        found += check.sandbox_id("sandbox_id", request.sandbox_id)
        found += check.env("env", env)
        if principal.reach(namespace).empty:
            found.append(Violation("namespace", "must be one of the tenant's namespaces, or empty for its first"))
        asked = request.spec
        found += policy.violations(asked.annotations, asked.runtime_class, asked.storage.storage_class)
        complete = spec(asked, defaults)
    return Key(namespace, request.sandbox_id), complete, env


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
    with _collecting() as found:
        found += check.request_id("request_id", request.request_id)
        if expected is not None and expected < 1:
            found.append(Violation("expected_generation", "must be a generation: 1 or more"))
        if isinstance(request, pb.UpdateEnvVarsRequest):
            found += check.env_change(request.set, request.unset, request.replace)
        found += violations
        found += _bad_names(principal, request)
    return mutation(principal, principal.key(request.namespace, request.sandbox_id), request, expected)


def mutation(
    principal: Principal, key: Key, request: MutationRequest, expected_generation: int | None = None
) -> manager.Mutation:
    """Returns what all mutations have in common. Clears `request.request_id`: what is left is the payload."""
    request_id = request.request_id.lower()
    request.ClearField("request_id")
    payload = type(request).__name__.encode() + b"\0" + request.SerializeToString(deterministic=True)
    stored = store.Request(principal.name, request_id, payload) if request_id else None
    method = type(request).__name__.removesuffix("Request")
    return manager.Mutation(principal, key, stored, expected_generation, method)


def read(principal: Principal, request: ReadRequest) -> Key:
    """Returns the key of a sandbox to read. Raises `errors.Invalid`, and `errors.NotFound` for another tenant's
    namespace."""
    with _collecting() as found:
        if request.min_sequence < 0:
            found.append(Violation("min_sequence", "must not be negative"))
        found += _bad_names(principal, request)
    return principal.key(request.namespace, request.sandbox_id)


def _bad_names(principal: Principal, request: ChangeRequest | ReadRequest) -> Iterator[Violation]:
    yield from check.sandbox_id("sandbox_id", request.sandbox_id, True)
    yield from bad_namespace(principal, request.namespace)


def bad_namespace(principal: Principal, namespace: str, names_sandboxes: bool = True) -> Iterator[Violation]:
    """Yields the violation of a namespace. An operator that `names_sandboxes` must say where they are."""
    if names_sandboxes and not namespace and not principal.default_namespace:
        yield Violation("namespace", "is required with an operator's token: an id can be in any tenant's namespace")
    yield from check.namespace("namespace", namespace)


def bad_tenant(tenant: str) -> Iterator[Violation]:
    """Yields the violation of the tenant of a filter."""
    if len(tenant) > TENANT_MOST or "\0" in tenant:
        yield Violation("tenant", f"must have at most {TENANT_MOST} characters, and no NUL")


def watched(principal: Principal, request: pb.WatchStatusRequest) -> tuple[feed.Filter, int | None]:
    """Returns what to watch, and the sequence to resume after: None to begin with a snapshot.

    Raises `errors.Invalid`, and `errors.NotFound` for ids in another tenant's namespace.
    """
    after = request.after_sequence if request.HasField("after_sequence") else None
    with _collecting() as found:
        for index, sandbox_id in enumerate(request.sandbox_ids[:WATCHED_MOST]):
            found += check.sandbox_id(f"sandbox_ids[{index}]", sandbox_id, True)
        if len(request.sandbox_ids) > WATCHED_MOST:
            found.append(Violation("sandbox_ids", f"must have at most {WATCHED_MOST} ids"))
        if after is not None and after < 0:
            found.append(Violation("after_sequence", "must not be negative"))
        labels = _label_selector(principal, request, found, names_sandboxes=bool(request.sandbox_ids))
    keys = principal.keys(request.namespace, request.sandbox_ids)
    return feed.Filter(principal, keys, request.namespace, request.project, labels, request.tenant), after


def listed(principal: Principal, request: pb.ListSandboxesRequest) -> tuple[feed.Filter, frozenset[Phase], Key | None]:
    """Returns what to list: a filter, the phases (all if empty), and the key that the page begins after.

    Raises `errors.Invalid`.
    """
    namespace, _, sandbox_id = request.page_token.partition("/")
    with _collecting() as found:
        for index, phase in enumerate(request.phases[: len(PHASES)]):
            if phase not in PHASES:
                found.append(Violation(f"phases[{index}]", "must be a phase"))
        if request.volume_kept and request.phases and pb.PHASE_TERMINATED not in request.phases:
            found.append(Violation("volume_kept", "takes PHASE_TERMINATED among the phases, or no phases"))
        if len(request.phases) > len(PHASES):
            found.append(Violation("phases", f"must have at most {len(PHASES)} phases"))
        found += bad_page_size(request.page_size)
        if request.view not in pb.SandboxView.values():
            found.append(Violation("view", f"must be {' or '.join(pb.SandboxView.keys()[1:])}, or unset"))
        if request.page_token and not (check.namespace.fits(namespace) and check.sandbox_id.fits(sandbox_id)):
            found.append(Violation("page_token", "must be the next_page_token of the page before"))
        labels = _label_selector(principal, request, found, names_sandboxes=False)
    selection = feed.Filter(principal, frozenset(), request.namespace, request.project, labels, request.tenant)
    after = Key(namespace, sandbox_id) if request.page_token else None
    phases = [pb.PHASE_TERMINATED] if request.volume_kept else request.phases
    return selection, frozenset(PHASES[one] for one in phases), after


def bad_page_size(page_size: int) -> Iterator[Violation]:
    """Yields the violation of the size of a page of a list."""
    if not 0 <= page_size <= manager.PAGE_MOST:
        yield Violation("page_size", f"must be from 1 to {manager.PAGE_MOST}, or 0 for the default")


def page_token(after: Key | None) -> str:
    """Returns the token of the page that begins after `after`; empty for None, after the last page."""
    return "" if after is None else "/".join(after)


def _label_selector(
    principal: Principal,
    request: pb.WatchStatusRequest | pb.ListSandboxesRequest,
    found: list[Violation],
    *,
    names_sandboxes: bool,
) -> selector.Selector:
    """Checks the fields of a filter, adds their violations to `found` and returns the label selector.

    Raises `errors.Invalid` for a bad label selector, so that it has to be the last check.
    """
    found += bad_namespace(principal, request.namespace, names_sandboxes)
    found += bad_tenant(request.tenant)
    found += check.project("project", request.project)
    return selector.parse("label_selector", request.label_selector)
