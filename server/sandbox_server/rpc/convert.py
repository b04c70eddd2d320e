"""Messages to domain values. What a caller left empty gets the service's default here; `render` is the way back."""

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import TypedDict

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server import feed, manager
from sandbox_server.domain import check, errors, selector
from sandbox_server.domain import sandbox as domain
from sandbox_server.domain.tenant import Tenant

WATCHED_MOST = 1000


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a spec has where the caller left it empty."""

    image: str
    resources: domain.Resources
    storage: domain.Storage
    ports: tuple[domain.Port, ...] = (domain.Port("app", 3000),)


Mutation = pb.StartRequest | pb.StopRequest | pb.DeleteRequest | pb.UpdateEnvVarsRequest
Named = Mutation | pb.GetStatusRequest | pb.GetSandboxRequest


def judged(found: Iterable[errors.Violation]) -> None:
    """Raises `errors.Invalid` with all that was found, if anything was."""
    if violations := tuple(found):
        raise errors.Invalid(violations)


def creation(request: pb.CreateSandboxRequest, defaults: Defaults) -> tuple[domain.SandboxSpec, dict[str, str]]:
    """The spec and the environment. Raises `errors.Invalid` with every bad field of the request."""
    env = dict(request.env)
    found = list(check.request_id("request_id", request.request_id))
    if request.sandbox_id:
        found += check.sandbox_id("sandbox_id", request.sandbox_id)
    found += check.env("env", env)
    readiness = request.spec.readiness
    if readiness.WhichOneof("probe") == "tcp_port" and not readiness.tcp_port:
        found.append(errors.Violation("spec.readiness.tcp_port", "must be one of the sandbox's ports"))
    try:
        made = spec(request.spec, defaults)
    except errors.Invalid as invalid:
        raise errors.Invalid((*found, *invalid.violations)) from None
    judged(found)
    return made, env


def spec(message: pb.SandboxSpec, defaults: Defaults) -> domain.SandboxSpec:
    """The spec with defaults filled in. Raises `errors.Invalid`."""
    asked, usual = message.resources, defaults.resources
    cpu = _pair(asked.cpu_request, asked.cpu_limit, usual.cpu_request, usual.cpu_limit, check.cpu_cores)
    memory = _pair(
        asked.memory_request, asked.memory_limit, usual.memory_request, usual.memory_limit, check.memory_bytes
    )
    ports = tuple(domain.Port(one.name or f"port-{one.number}", one.number) for one in message.ports)
    return domain.SandboxSpec(
        project=message.project,
        image=message.image or defaults.image,
        command=tuple(message.command),
        args=tuple(message.args),
        ports=ports or defaults.ports,
        resources=domain.Resources(*cpu, *memory),
        storage=domain.Storage(
            size=message.storage.size or defaults.storage.size,
            storage_class=message.storage.storage_class or defaults.storage.storage_class,
            access_mode=message.storage.access_mode or defaults.storage.access_mode,
        ),
        labels=dict(message.labels),
        annotations=dict(message.annotations),
        runtime_class=message.runtime_class,
        readiness=domain.Readiness(message.readiness.http_path, message.readiness.tcp_port),
    )


def _pair(
    request: str, limit: str, usual_request: str, usual_limit: str, amount: Callable[[str], Decimal | None]
) -> tuple[str, str]:
    """A request and a limit; a default gives way to what the caller said of the other."""
    if not limit:
        asked, usual = amount(request or usual_request), amount(usual_limit)
        limit = request if asked is not None and usual is not None and asked > usual else usual_limit
    if not request:
        asked, usual = amount(limit), amount(usual_request)
        request = limit if asked is not None and usual is not None and asked < usual else usual_request
    return request, limit


def target(tenant: Tenant, request: Named, found: Iterable[errors.Violation] = ()) -> domain.Key:
    """The key that a request names. Raises `errors.Invalid` with `found` too, and `errors.NotFound`."""
    violations = [*found, *check.sandbox_id("sandbox_id", request.sandbox_id), *_namespace(request.namespace)]
    if isinstance(request, Mutation):
        violations += check.request_id("request_id", request.request_id)
    judged(violations)
    return tenant.key(request.namespace, request.sandbox_id)


def _namespace(value: str) -> Iterable[errors.Violation]:
    return check.namespace("namespace", value) if value else ()


def created_in(tenant: Tenant, namespace: str) -> str:
    """The namespace of a new sandbox. Raises `errors.Invalid` for one that is not the tenant's."""
    if namespace and namespace not in tenant.namespaces:
        judged([errors.Violation("namespace", "must be one of the tenant's namespaces, or empty for its first")])
    return namespace or tenant.namespaces[0]


def wish(method: str, request: pb.CreateSandboxRequest | Mutation, timeout: float) -> manager.Wish:
    """What every mutation carries."""
    expected = None
    if isinstance(request, Mutation) and request.HasField("expected_generation"):
        expected = request.expected_generation
    payload = type(request)()
    payload.CopyFrom(request)  # type: ignore[arg-type]
    payload.ClearField("request_id")
    written = method.encode() + b"\0" + payload.SerializeToString(deterministic=True)
    return manager.Wish(request.request_id.lower(), written, expected, timeout)


def watched(tenant: Tenant, request: pb.WatchStatusRequest) -> feed.Filter:
    """What to watch. Raises `errors.Invalid` and `errors.NotFound`."""
    found = [
        one
        for index, sandbox_id in enumerate(request.sandbox_ids[:WATCHED_MOST])
        for one in check.sandbox_id(f"sandbox_ids[{index}]", sandbox_id)
    ]
    if len(request.sandbox_ids) > WATCHED_MOST:
        found.append(errors.Violation("sandbox_ids", f"must have at most {WATCHED_MOST} ids"))
    if request.HasField("after_sequence") and request.after_sequence < 0:
        found.append(errors.Violation("after_sequence", "must not be negative"))
    return feed.Filter(
        tenant=tenant.name,
        keys=frozenset(tenant.key(request.namespace, one) for one in request.sandbox_ids) if not found else frozenset(),
        **_matching(request.namespace, request.project, request.label_selector, found),
    )


def listed(
    tenant: Tenant, request: pb.ListSandboxesRequest
) -> tuple[feed.Filter, frozenset[domain.Phase], int, domain.Key | None]:
    """What to list: filter, phases, page size and the key to go on after. Raises `errors.Invalid`."""
    found: list[errors.Violation] = []
    known = {one.value for one in domain.Phase}
    for index, phase in enumerate(request.phases):
        if phase not in known:
            found.append(errors.Violation(f"phases[{index}]", "must be a phase"))
    if not 0 <= request.page_size <= manager.PAGE_MOST:
        found.append(errors.Violation("page_size", f"must be from 1 to {manager.PAGE_MOST}, or 0 for the default"))
    after = None
    if request.page_token:
        try:
            decoded = base64.b64decode(request.page_token, altchars=b"-_", validate=True).decode()
            namespace, sandbox_id = decoded.split("/")
            after = domain.Key(namespace, sandbox_id)
        except ValueError:
            found.append(errors.Violation("page_token", "must be the next_page_token of the page before"))
    wanted = feed.Filter(
        tenant=tenant.name, **_matching(request.namespace, request.project, request.label_selector, found)
    )
    phases = frozenset(domain.Phase(one) for one in request.phases)
    return wanted, phases, request.page_size or manager.PAGE_DEFAULT, after


def page_token(after: domain.Key | None) -> str:
    """The token of the page after `after`; empty for None."""
    return base64.urlsafe_b64encode("/".join(after).encode()).decode() if after else ""


class _Matching(TypedDict):
    namespace: str
    project: str
    labels: selector.Selector


def _matching(namespace: str, project: str, text: str, found: list[errors.Violation]) -> _Matching:
    found += _namespace(namespace)
    if project:
        found += check.project("project", project)
    try:
        labels = selector.parse("label_selector", text)
    except errors.Invalid as invalid:
        raise errors.Invalid((*found, *invalid.violations)) from None
    judged(found)
    return _Matching(namespace=namespace, project=project, labels=labels)
