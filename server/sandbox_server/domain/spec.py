"""The spec of a sandbox: what its caller asked for, with defaults filled in."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sandbox_server.domain import check, errors

TERMINAL_PORT = 7681
"""The port of the web terminal in the pod: ttyd's default."""


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port and its name."""

    name: str
    number: int


PORTS = (Port("app", 3000),)
"""The ports of a sandbox whose caller gives none."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Kubernetes quantities: CPU in cores (`500m`), memory in bytes (`512Mi`)."""

    cpu_request: str
    cpu_limit: str
    memory_request: str
    memory_limit: str


@dataclass(frozen=True, slots=True)
class Storage:
    """The disk at /home/agent. An empty storage class is the cluster's default."""

    size: str
    storage_class: str
    access_mode: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """The probe that must succeed before RUNNING: an HTTP path on the first port, or a TCP port.

    At most one of them is set. With neither, a started process is ready.
    """

    http_path: str = ""
    tcp_port: int = 0


@dataclass(frozen=True, slots=True, weakref_slot=True, kw_only=True)
class SandboxSpec:
    """The spec of a sandbox, all but the environment. The constructor raises `errors.Invalid` with every bad field."""

    project: str
    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    ports: tuple[Port, ...] = PORTS
    resources: Resources
    storage: Storage
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    runtime_class: str = ""
    readiness: Readiness = Readiness()
    grace_period_seconds: int = 10
    copy_image_home: bool = True

    def __post_init__(self) -> None:
        resources = self.resources
        storage = self.storage
        readiness = self.readiness
        found = (
            *check.project("spec.project", self.project, True),
            *check.image("spec.image", self.image, True),
            *check.words("spec.command", self.command, 64, check.word),
            *check.words("spec.args", self.args, 256, check.argument),
            *check.ports("spec.ports", [(one.name, one.number) for one in self.ports], TERMINAL_PORT),
            *check.pair("spec.resources.cpu", resources.cpu_request, resources.cpu_limit, check.cpu),
            *check.pair("spec.resources.memory", resources.memory_request, resources.memory_limit, check.memory),
            *check.disk("spec.storage.size", storage.size, True),
            *check.class_name("spec.storage.storage_class", storage.storage_class),
            *check.access_mode("spec.storage.access_mode", storage.access_mode, True),
            *check.labels("spec.labels", self.labels),
            *check.annotations("spec.annotations", self.annotations),
            *check.class_name("spec.runtime_class", self.runtime_class),
            *check.http_path("spec.readiness.http_path", readiness.http_path),
            *check.grace_period("spec.grace_period_seconds", self.grace_period_seconds),
        )
        if readiness.tcp_port and readiness.tcp_port not in [one.number for one in self.ports]:
            found += (errors.Violation("spec.readiness.tcp_port", "must be one of the sandbox's ports"),)
        if found:
            raise errors.Invalid(found)


def made_id(project: str, suffix: str) -> str:
    """Returns an id for a sandbox whose caller gave none: `<project>-agentruntime-<suffix>`.

    The project is cut to make the id valid.
    """
    left = check.ID_MOST - len("-agentruntime-") - len(suffix)
    return f"{project[:left].rstrip('-')}-agentruntime-{suffix}"
