"""Messages to domain values. What a caller left empty gets the service's default here; `render` is the way back."""

import contextlib
import math
from collections.abc import Iterator

from google.protobuf import json_format
from google.protobuf.message import Message
from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server import feed, manager, store
from sandbox_server.domain import check, errors, selector
from sandbox_server.domain.errors import Violation
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.spec import PORTS, Port, Readiness, Resources, SandboxSpec, Storage
from sandbox_server.domain.tenant import Tenant
from sandbox_server.settings import Settings

WATCHED_MOST = 1000

Change = pb.StartRequest | pb.StopRequest | pb.DeleteRequest | pb.UpdateEnvVarsRequest
Mutation = pb.CreateSandboxRequest | Change
Read = pb.GetStatusRequest | pb.GetSandboxRequest


@contextlib.contextmanager
def _judging() -> Iterator[list[Violation]]:
    """Gathers violations, those of an `errors.Invalid` meanwhile too. Raises `errors.Invalid` with all there are."""
    found: list[Violation] = []
    try:
        yield found
    except errors.Invalid as invalid:
        found += invalid.violations
    if found:
        raise errors.Invalid(tuple(found))


def named(tenant: Tenant, request: Message) -> dict[str, str]:
    """The sandbox that a request is about, as far as the request names it and names it well."""
    sandbox_id: str = getattr(request, "sandbox_id", "")
    namespace: str = getattr(request, "namespace", "")
    found = {}
    if sandbox_id and check.sandbox_id.fits(sandbox_id):
        found["sandbox_id"] = sandbox_id
    many = isinstance(request, pb.WatchStatusRequest) and bool(request.sandbox_ids)
    if not namespace and (sandbox_id or many):
        namespace = tenant.namespaces[0]
    if namespace and check.namespace.fits(namespace):
        found["namespace"] = namespace
    return found


def known_request_id(request: Message) -> str:
    """The request id of a mutation; empty where it has none, or one that is no UUID."""
    request_id: str = getattr(request, "request_id", "")
    return request_id.lower() if request_id and check.request_id.fits(request_id) else ""


def written(text: str) -> pb.CreateSandboxRequest:
    """A CreateSandboxRequest from its JSON. Raises ValueError."""
    try:
        return json_format.Parse(text, pb.CreateSandboxRequest())
    except json_format.ParseError as error:
        raise ValueError(f"not a CreateSandboxRequest in JSON: {error}") from None


def creation(
    tenant: Tenant, request: pb.CreateSandboxRequest, settings: Settings
) -> tuple[Key, SandboxSpec, dict[str, str]]:
    """The key, its id empty where none is given, the spec and the environment. Raises `errors.Invalid`."""
    env, namespace = dict(request.env), request.namespace or tenant.namespaces[0]
    with _judging() as found:
        found += check.request_id("request_id", request.request_id)
        found += check.sandbox_id("sandbox_id", request.sandbox_id)
        found += check.env("env", env)
        if namespace not in tenant.namespaces:
            found.append(Violation("namespace", "must be one of the tenant's namespaces, or empty for its first"))
        asked = request.spec
        found += settings.policy.violations(asked.annotations, asked.runtime_class, asked.storage.storage_class)
        made = spec(asked, settings)
    return Key(namespace, request.sandbox_id), made, env


def spec(message: pb.SandboxSpec, settings: Settings) -> SandboxSpec:
    """The spec with defaults filled in. Raises `errors.Invalid` with every bad field."""
    storage, asked, usual, readiness = message.storage, message.resources, settings, message.readiness
    cpu = _pair(asked.cpu_request, asked.cpu_limit, usual.default_cpu_request, usual.default_cpu_limit, check.cpu)
    memory_limits = usual.default_memory_request, usual.default_memory_limit
    memory = _pair(asked.memory_request, asked.memory_limit, *memory_limits, check.memory)
    ports = tuple(Port(one.name or check.made_name(one.number), one.number) for one in message.ports)
    # A probe of port 0 is a mistake, not no probe.
    tcp_port = (readiness.tcp_port or -1) if readiness.HasField("tcp_port") else 0
    return SandboxSpec(
        project=message.project,
        image=message.image or usual.default_image,
        command=tuple(message.command),
        args=tuple(message.args),
        ports=ports or PORTS,
        resources=Resources(*cpu, *memory),
        storage=Storage(
            size=storage.size or usual.default_storage_size,
            storage_class=storage.storage_class or usual.storage_class,
            access_mode=storage.access_mode or "ReadWriteOnce",
        ),
        labels=dict(message.labels),
        annotations=dict(message.annotations),
        runtime_class=message.runtime_class,
        readiness=Readiness(readiness.http_path, tcp_port),
        grace_period_seconds=message.grace_period_seconds
        if message.HasField("grace_period_seconds")
        else usual.grace_period,
        copy_image_home=message.copy_image_home if message.HasField("copy_image_home") else usual.copy_image_home,
    )


def unset_storage(message: pb.Storage) -> tuple[str, ...]:
    """The names of the fields that the caller left empty."""
    return tuple(one.name for one in message.DESCRIPTOR.fields if not getattr(message, one.name))


def _pair(request: str, limit: str, usual_request: str, usual_limit: str, kind: check.Kind) -> tuple[str, str]:
    """A request and a limit; a default gives way to what the caller said of the other."""
    if request and not limit:
        limit = max(usual_limit, request, key=lambda one: kind.fits(one) or 0)
    if limit and not request:
        request = min(usual_request, limit, key=lambda one: kind.fits(one) or math.inf)
    return request or usual_request, limit or usual_limit


def change(tenant: Tenant, request: Change) -> manager.Wish:
    """A wish about a sandbox that is there. Raises `errors.Invalid` and `errors.NotFound`."""
    expected = request.expected_generation if request.HasField("expected_generation") else None
    with _judging() as found:
        found += check.request_id("request_id", request.request_id)
        if expected is not None and expected < 1:
            found.append(Violation("expected_generation", "must be a generation: 1 or more"))
        if isinstance(request, pb.UpdateEnvVarsRequest):
            found += check.env_change(request.set, request.unset, request.replace)
        found += _misnamed(request)
    return wish(tenant, tenant.key(request.namespace, request.sandbox_id), request, expected)


def wish(tenant: Tenant, key: Key, request: Mutation, expected_generation: int | None = None) -> manager.Wish:
    """What every mutation carries. Takes the id out of `request`, so that the rest is the payload."""
    request_id = request.request_id.lower()
    request.ClearField("request_id")
    payload = type(request).__name__.encode() + b"\0" + request.SerializeToString(deterministic=True)
    known = store.Request(tenant.name, request_id, payload) if request_id else None
    return manager.Wish(tenant.name, key, known, expected_generation)


def read(tenant: Tenant, request: Read) -> Key:
    """The key of a sandbox to read. Raises `errors.Invalid` and `errors.NotFound`."""
    with _judging() as found:
        if request.min_sequence < 0:
            found.append(Violation("min_sequence", "must not be negative"))
        found += _misnamed(request)
    return tenant.key(request.namespace, request.sandbox_id)


def _misnamed(request: Change | Read) -> Iterator[Violation]:
    yield from check.sandbox_id("sandbox_id", request.sandbox_id, True)
    yield from check.namespace("namespace", request.namespace)


def watched(tenant: Tenant, request: pb.WatchStatusRequest) -> tuple[feed.Filter, int | None]:
    """What to watch, and the sequence to go on after. Raises `errors.Invalid` and `errors.NotFound`."""
    after = request.after_sequence if request.HasField("after_sequence") else None
    with _judging() as found:
        for index, sandbox_id in enumerate(request.sandbox_ids[:WATCHED_MOST]):
            found += check.sandbox_id(f"sandbox_ids[{index}]", sandbox_id, True)
        if len(request.sandbox_ids) > WATCHED_MOST:
            found.append(Violation("sandbox_ids", f"must have at most {WATCHED_MOST} ids"))
        if after is not None and after < 0:
            found.append(Violation("after_sequence", "must not be negative"))
        labels = _matching(request, found)
    keys = tenant.keys(request.namespace, request.sandbox_ids)
    return feed.Filter(tenant, keys, request.namespace, request.project, labels), after


def listed(tenant: Tenant, request: pb.ListSandboxesRequest) -> tuple[feed.Filter, frozenset[Phase], Key | None]:
    """What to list: filter, phases and the key to go on after. Raises `errors.Invalid`."""
    known = {one.value: one for one in Phase}
    namespace, _, sandbox_id = request.page_token.partition("/")
    with _judging() as found:
        for index, phase in enumerate(request.phases[: len(known)]):
            if phase not in known:
                found.append(Violation(f"phases[{index}]", "must be a phase"))
        if request.volume_kept and request.phases and pb.PHASE_TERMINATED not in request.phases:
            found.append(Violation("volume_kept", "takes PHASE_TERMINATED among the phases, or no phases"))
        if len(request.phases) > len(known):
            found.append(Violation("phases", f"must have at most {len(known)} phases"))
        if not 0 <= request.page_size <= manager.PAGE_MOST:
            found.append(Violation("page_size", f"must be from 1 to {manager.PAGE_MOST}, or 0 for the default"))
        if request.view not in pb.SandboxView.values():
            found.append(Violation("view", f"must be {' or '.join(pb.SandboxView.keys()[1:])}, or unset"))
        if request.page_token and not (check.namespace.fits(namespace) and check.sandbox_id.fits(sandbox_id)):
            found.append(Violation("page_token", "must be the next_page_token of the page before"))
        labels = _matching(request, found)
    selection = feed.Filter(tenant, frozenset(), request.namespace, request.project, labels)
    after = Key(namespace, sandbox_id) if request.page_token else None
    phases = [pb.PHASE_TERMINATED] if request.volume_kept else request.phases
    return selection, frozenset(known[one] for one in phases), after


def page_token(after: Key | None) -> str:
    """The token of the page after `after`; empty for None."""
    return "/".join(after) if after else ""


def _matching(request: pb.WatchStatusRequest | pb.ListSandboxesRequest, found: list[Violation]) -> selector.Selector:
    """The label selector, the last to be judged: it raises `errors.Invalid`."""
    found += check.namespace("namespace", request.namespace)
    found += check.project("project", request.project)
    return selector.parse("label_selector", request.label_selector)
