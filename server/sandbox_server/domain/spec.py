"""What was asked for. `check` judges each field; the spec names every bad one when it is made."""

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
"""Those of a sandbox whose caller names none."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Kubernetes quantities: CPU in cores (`500m`), memory in bytes (`512Mi`)."""

    cpu_request: str
    cpu_limit: str
    memory_request: str
    memory_limit: str


@dataclass(frozen=True, slots=True)
class Storage:
    """The disk on /home/agent. An empty storage class is the cluster's default."""

    size: str
    storage_class: str
    access_mode: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """What must answer before RUNNING: an HTTP path on the first port, a TCP port, or (both empty) nothing."""

    http_path: str = ""
    tcp_port: int = 0


@dataclass(frozen=True, slots=True, weakref_slot=True, kw_only=True)
class SandboxSpec:
    """What was asked for, defaults filled in, all but the environment.

    Raises `errors.Invalid` with every bad field when it is made.
    """

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
        resources, storage, readiness = self.resources, self.storage, self.readiness
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


def made_id(project: str, chance: str) -> str:
    """The id of a sandbox that was given none: `<project>-agentruntime-<chance>`, the project cut to make it valid."""
    return f"{project[: check.ID_MOST - 14 - len(chance)].rstrip('-')}-agentruntime-{chance}"
