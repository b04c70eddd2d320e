"""A sandbox as it is remembered: what names it, where it is reached and its status. All frozen."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sandbox_server.domain.observed import Exit
from sandbox_server.domain.phase import ConditionType, DesiredState, Phase, Reason
from sandbox_server.domain.spec import SandboxSpec

HOME_FOLDER = "home"
"""The folder of a disk that is mounted as the home, so that what a file system has at its root is not in it."""


class Key(NamedTuple):
    """What names a sandbox in the store, the queue and the engines."""

    namespace: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where a sandbox is reached; fixed when it is created. `ttyd_url` is empty where there is no terminal.

    `ports` are the loopback ports (application, terminal) that the local engine allotted; empty on Kubernetes.
    `ingress_class` and `tls_secret` are what the Ingresses were first made with; None where that was not stored.
    """

    dns_name: str = ""
    public_url: str = ""
    ttyd_url: str = ""
    ports: tuple[int, ...] = ()
    ingress_class: str | None = None
    tls_secret: str | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """One aspect: True, False or None for unknown; `transition_time` is when `status` last changed."""

    type: ConditionType
    status: bool | None
    reason: Reason
    transition_time: datetime


@dataclass(frozen=True, slots=True)
class VolumeStatus:
    """The disk as callers are told of it; `size` is a Kubernetes quantity."""

    name: str
    size: str
    bound: bool


@dataclass(frozen=True, slots=True)
class DisruptionStatus:
    """A disruption as callers see it. `count`: how many there were in a row."""

    reason: Reason
    message: str
    time: datetime
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What callers are told. `status.record` makes the next one; `lifecycle.decide` gives phase and reason."""

    phase: Phase
    reason: Reason
    message: str
    transition_time: datetime
    observed_generation: int = 0
    conditions: tuple[Condition, ...] = ()
    restart_count: int = 0
    last_exit: Exit | None = None
    volume: VolumeStatus | None = None
    last_disruption: DisruptionStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A sandbox as the store remembers it, all but the values of its environment.

    `host` is the unique name in its URLs: 12 characters, a letter first. `start_generation` is the generation of the
    last wish to run. `attempt_at` is when the present attempt to run began: the start deadline counts from it.
    `applied_generation` and `applied_revision` are the generation and the workload's revision of the last act that
    succeeded. `volume_uid` is the disk that holds its data, once seen. `home_folder` is the folder of the disk that is its
    home; empty: the whole disk, as for sandboxes from before there were folders. `filled_generation` is the first
    generation that was RUNNING on this disk, 0 before: later ones find a home on it. `disrupted_pod` is
    the uid of the pod that the last disruption ended, and `disruptions` how many there were in a row.
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
    create_time: datetime
    attempt_at: datetime
    addresses: Addresses
    status: Status
    applied_generation: int = 0
    applied_revision: int = 0
    keep_volume: bool = False
    volume_uid: str = ""
    home_folder: str = ""
    filled_generation: int = 0
    disrupted_pod: str = ""
    disruptions: int = 0

    @property
    def key(self) -> Key:
        """What names it."""
        return Key(self.namespace, self.id)

    @property
    def fills_home(self) -> bool:
        """Whether the pod of this generation copies what the image has in the home. It is the same for as long as the
        generation is, since a change of the template would restart the pod."""
        fresh = self.generation <= (self.filled_generation or self.generation)
        return fresh and bool(self.home_folder) and self.spec.copy_image_home

    @property
    def stateful_set_name(self) -> str:
        """The name of its StatefulSet: its id."""
        return self.id

    @property
    def service_name(self) -> str:
        """The name of its Service."""
        return f"{self.id}-service"
