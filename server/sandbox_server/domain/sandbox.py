"""The values: what was asked for, what is remembered, what is observed. All frozen; `check` judges what callers send."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from sandbox_server.domain import check, errors

TERMINAL_PORT = 7681
"""The port of the web terminal in the pod: ttyd's default."""


class DesiredState(enum.Enum):
    """The caller's last wish."""

    RUNNING = 1
    STOPPED = 2
    DELETED = 3


class Phase(enum.Enum):
    """What follows from desired and observed. Numbers are those of the contract."""

    CREATING = 1
    STARTING = 2
    RUNNING = 3
    UPDATING = 4
    STOPPING = 5
    STOPPED = 6
    TERMINATING = 7
    TERMINATED = 8
    ERROR = 9


class Reason(enum.Enum):
    """Why the phase is what it is. Numbers and meanings are those of the contract."""

    ACCEPTED = 1
    WORKLOAD_PENDING = 2
    SCHEDULING = 3
    VOLUME_BINDING = 4
    CONTAINER_CREATING = 5
    NOT_READY = 6
    ROLLING_OUT = 7
    RESTARTING = 8
    READY = 9
    POD_TERMINATING = 10
    POD_GONE = 11
    VOLUME_TERMINATING = 12
    DELETED = 13
    VOLUME_KEPT = 14
    IMAGE_PULL = 15
    IMAGE_INVALID = 16
    CRASH_LOOP = 17
    OUT_OF_MEMORY = 18
    CONTAINER_CONFIG = 19
    UNSCHEDULABLE = 20
    QUOTA_EXCEEDED = 21
    ADMISSION_DENIED = 22
    VOLUME_PENDING = 23
    VOLUME_LOST = 24
    NODE_LOST = 25
    NAME_CONFLICT = 26
    START_DEADLINE = 27
    NAMESPACE_MISSING = 28
    NAMESPACE_TERMINATING = 29
    CLUSTER_FORBIDDEN = 30
    ENGINE_REFUSED = 31

    @property
    def is_error(self) -> bool:
        """Whether it can stand beside Phase.ERROR: something prevents the desired state."""
        return self.value >= Reason.IMAGE_PULL.value


class ConditionType(enum.Enum):
    """One aspect of a sandbox."""

    SCHEDULED = 1
    VOLUME_BOUND = 2
    IMAGE_PULLED = 3
    READY = 4
    ENV_APPLIED = 5


class Key(NamedTuple):
    """What names a sandbox in the store, the queue and the engines."""

    namespace: str
    id: str


def made_id(project: str, chance: str) -> str:
    """The id of a sandbox that was given none: `<project>-agentruntime-<chance>`, the project cut to make it valid."""
    return f"{project[: check.ID_MOST - 14 - len(chance)].rstrip('-')}-agentruntime-{chance}"


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port and its name."""

    name: str
    number: int


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """What was asked for, defaults filled in, all but the environment.

    Raises `errors.Invalid` with every bad field when it is made.
    """

    project: str
    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    ports: tuple[Port, ...] = (Port("app", 3000),)
    resources: Resources
    storage: Storage
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    runtime_class: str = ""
    readiness: Readiness = Readiness()

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
        )
        if readiness.tcp_port and readiness.tcp_port not in [one.number for one in self.ports]:
            found += (errors.Violation("spec.readiness.tcp_port", "must be one of the sandbox's ports"),)
        if found:
            raise errors.Invalid(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where a sandbox is reached; fixed when it is created. `ttyd_url` is empty where there is no terminal.

    `ports` are the loopback ports (application, terminal) that the local engine allotted; empty on Kubernetes.
    """

    dns_name: str = ""
    public_url: str = ""
    ttyd_url: str = ""
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended: its code (128 + signal number for a signal) and the engine's word for it."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Condition:
    """One aspect: True, False or None for unknown; `changed_at` is when `status` last changed."""

    type: ConditionType
    status: bool | None
    reason: Reason
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class VolumeStatus:
    """The disk as callers are told of it; `size` is a Kubernetes quantity."""

    name: str
    size: str
    bound: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What is known of a sandbox. `status.record` makes the next one; `lifecycle.decide` gives phase and reason.

    `attempt_at` is when the present attempt to run began: the start deadline counts from it. `applied_generation`
    and `applied_revision` are the generation and the workload's revision of the last act that succeeded.
    """

    phase: Phase
    reason: Reason
    message: str
    transitioned_at: datetime
    attempt_at: datetime
    observed_generation: int = 0
    conditions: tuple[Condition, ...] = ()
    restart_count: int = 0
    last_exit: Exit | None = None
    volume: VolumeStatus | None = None
    applied_generation: int = 0
    applied_revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A sandbox as the store remembers it, all but the values of its environment.

    `host` is the unique name in its URLs: 12 characters, a letter first. `start_generation` is the generation of the
    last wish to run. `volume_uid` is the disk that holds its data, once seen. `sequence` is the log's number of its
    last change, 0 before the first.
    """

    id: str
    namespace: str
    tenant: str
    uid: str
    host: str
    spec: SandboxSpec
    env_names: tuple[str, ...]
    desired: DesiredState
    generation: int
    start_generation: int
    created_at: datetime
    addresses: Addresses
    status: Status
    keep_volume: bool = False
    volume_uid: str = ""
    sequence: int = 0

    @property
    def key(self) -> Key:
        """What names it."""
        return Key(self.namespace, self.id)

    @property
    def stateful_set_name(self) -> str:
        """The name of its StatefulSet: its id."""
        return self.id

    @property
    def service_name(self) -> str:
        """The name of its Service."""
        return f"{self.id}-service"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why the engine could not do what it was asked, or the cluster cannot make the pod."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The StatefulSet (or its local counterpart) as it now is.

    `owner` is the uid of the sandbox it was made for, empty for a stranger's. `revision` changes whenever somebody
    changes or removes what was made for it. `fault` says why its pod cannot be made. `obeyed`: whether
    its controller has seen it as it is, so that nothing more comes of what it was before.
    """

    owner: str
    generation: int
    replicas: int
    revision: int
    terminating: bool = False
    fault: Fault | None = None
    obeyed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """The pod (or the local process) as it now is.

    `reason` says why it is not ready: SCHEDULING, CONTAINER_CREATING, NOT_READY, RESTARTING or an error's word;
    READY when it is. `scheduled` and `image_pulled` are None when it cannot be told.
    """

    owner: str
    generation: int
    ready: bool
    reason: Reason
    message: str = ""
    terminating: bool = False
    scheduled: bool | None = None
    image_pulled: bool | None = None
    restart_count: int = 0
    last_exit: Exit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """The claim (or directory) as it now is. `message` has the cluster's words for why it is not bound."""

    owner: str
    uid: str
    name: str
    size: str
    bound: bool
    terminating: bool = False
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What the engine shows now, and why its last act for this sandbox failed, if it did."""

    workload: Workload | None = None
    pod: Pod | None = None
    volume: Volume | None = None
    fault: Fault | None = None
