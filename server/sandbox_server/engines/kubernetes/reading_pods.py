"""Reads the pod template of a former system."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from sandbox_server.domain import check, errors
from sandbox_server.domain.spec import TERMINAL_PORT, Port, Resources, SandboxSpec
from sandbox_server.engines.kubernetes import expansion, pods
from sandbox_server.engines.kubernetes.patch import Manifest
from sandbox_server.settings import Defaults

APPLICATION_PORT = 3000
"""Where the application of a sandbox of the former system listens."""


_LEFT_OF_POD = (
    "imagePullSecrets",
    "serviceAccountName",
    "nodeSelector",
    "nodeName",
    "tolerations",
    "affinity",
    "priorityClassName",
    "securityContext",
)
_LEFT_OF_CONTAINER = ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "workingDir", "securityContext")


class Unread(ValueError):
    """What was found is no sandbox of the former system, or one that the service could not run as it is. The text says why."""


def container(template: Manifest) -> Manifest:
    """Returns the one container. Raises `Unread`."""
    found: Sequence[Manifest] = template["spec"].get("containers") or ()
    if len(found) != 1:
        names = ", ".join(one["name"] for one in found)
        raise Unread(f"its pod has the containers {names}: remove those that are not the sandbox's")
    return found[0]


def mount(container: Manifest) -> Mapping[str, str]:
    """Returns what is mounted as the home; empty if nothing is. Raises `Unread` for a folder that the pod's variables name."""
    mounts = container.get("volumeMounts") or ()
    found: Mapping[str, str] = next((one for one in mounts if one["mountPath"].rstrip("/") == pods.HOME), {})
    if found.get("subPathExpr"):
        raise Unread(f"its home is the folder {found['subPathExpr']} of its disk (subPathExpr): write it as a subPath")
    return found


def environment(container: Manifest) -> dict[str, str]:
    """Returns the environment as the process has it. Raises `Unread` where it is not in the template, or cannot be in a Secret."""
    if container.get("envFrom"):
        raise Unread("its environment comes from other objects (envFrom): write the variables into its template")
    env: dict[str, str] = {}
    for one in container.get("env") or ():
        if one.get("valueFrom"):
            raise Unread(
                f"its variable {one['name']} comes from another object (valueFrom): write it into its template"
            )
        env[one["name"]] = expansion.expanded(one.get("value") or "", env)
    if found := tuple(check.env("env", env)):
        raise Unread(f"its environment cannot be that of a sandbox: {_said(found)}")
    return env


def words(container: Manifest, part: str, env: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the `command` or the `args`. Raises `Unread` where values of the environment would be in them, for all to see."""
    given = container.get(part) or ()
    plain = expansion.words(given, {})
    if expansion.words(given, env) != plain:
        raise Unread(f"its {part} names variables, as $(NAME), whose values would be shown: have a shell read them")
    return plain


def checked(make: Callable[[], SandboxSpec]) -> SandboxSpec:
    """Returns the spec. Raises `Unread` for one that no sandbox can have."""
    try:
        return make()
    except errors.Invalid as error:
        raise Unread(f"it cannot be the spec of a sandbox: {_said(error.violations)}") from None


def _said(found: Sequence[errors.Violation]) -> str:
    return "; ".join(f"{one.field} {one.description}" for one in found)


def ports(container: Manifest, service: Manifest | None, application: int) -> tuple[Port, ...]:
    """Returns the ports beside the terminal's, that of the application first. The Service's names are kept.

    Raises `Unread` for a Service that leads a port to another one.
    """
    inside = {one.get("name"): one["containerPort"] for one in container.get("ports") or ()}
    for one in service["spec"].get("ports") or () if service else ():
        target = one.get("targetPort", one["port"])
        if inside.get(target, target) != one["port"]:
            raise Unread(
                f"its Service leads port {one['port']} to {target}: make both the same there and in its Ingresses"
            )
    named: dict[int, str] = {}
    for one in service["spec"].get("ports") or () if service else ():
        if one.get("protocol", "TCP") == "TCP":
            named[one["port"]] = one.get("name") or ""
    for one in container.get("ports") or ():
        if one.get("protocol", "TCP") == "TCP":
            named.setdefault(one["containerPort"], one.get("name") or "")
    named.pop(TERMINAL_PORT, None)
    if application:
        named.setdefault(application, "")
    if not named:
        named[APPLICATION_PORT] = "app"
    first = application or (APPLICATION_PORT if APPLICATION_PORT in named else min(named))
    taken = {"ttyd"}
    found: list[Port] = []
    for number in sorted(named, key=lambda one: (one != first, one)):
        name = named[number] if check.port_name.fits(named[number]) else ""
        name = name if name and name not in taken else check.made_name(number)
        taken.add(name)
        found.append(Port(name, number))
    return tuple(found)


def resources(container: Manifest, defaults: Defaults) -> Resources:
    """Returns the resources. What the template leaves open is the default, as far as it fits to the rest."""
    given = container.get("resources") or {}
    requests, limits = given.get("requests") or {}, given.get("limits") or {}
    cpu = _pair(
        str(requests.get("cpu", "")),
        str(limits.get("cpu", "")),
        (defaults.default_cpu_request, defaults.default_cpu_limit),
        check.cpu,
    )
    memory = _pair(
        str(requests.get("memory", "")),
        str(limits.get("memory", "")),
        (defaults.default_memory_request, defaults.default_memory_limit),
        check.memory,
    )
    return Resources(*cpu, *memory)


def _pair(request: str, limit: str, defaults: tuple[str, str], kind: check.Kind) -> tuple[str, str]:
    """Returns a request and a limit. As in Kubernetes, a limit without a request is the request too."""
    if not limit:
        limit = defaults[1]
        if request and (kind.fits(request) or 0) > (kind.fits(limit) or 0):
            limit = request
        return request or defaults[0], limit
    return request or limit, limit


def notes(template: Manifest, container: Manifest) -> Iterator[str]:
    """Yields what the pods of the service will not have."""
    if names := [one["name"] for one in template["spec"].get("initContainers") or ()]:
        yield f"its init containers are left out: {', '.join(names)}"
    if paths := [one["mountPath"] for one in container.get("volumeMounts") or () if one["mountPath"] != pods.HOME]:
        yield f"its further mounts are left out: {', '.join(paths)}"
    left = [one for one in _LEFT_OF_POD if template["spec"].get(one)]
    if left := [*left, *(one for one in _LEFT_OF_CONTAINER if container.get(one))]:
        yield f"its {', '.join(left)} is left out"
