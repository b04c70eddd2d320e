"""A sandbox as the service knows it: its name, its addresses and its status. All values are frozen."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sandbox_server.domain.observed import Exit
from sandbox_server.domain.phase import ConditionType, DesiredState, Phase, Reason
from sandbox_server.domain.spec import Resources, SandboxSpec

HOME_FOLDER = "home"
"""The folder of a disk that is mounted as the home. The root of a file system may contain other things (lost+found)."""


class Key(NamedTuple):
    """Identifies a sandbox in the store, the queue and the engines."""

    namespace: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """The addresses of a sandbox, fixed when it is created. `ttyd_url` is empty if there is no terminal.

    `ports` are the loopback ports of the application and the terminal on the local engine, and empty on Kubernetes.
    `ingress_class` and `tls_secret` are those of the Ingresses when they were created; None if that was not stored.
    """

    dns_name: str = ""
    public_url: str = ""
    ttyd_url: str = ""
    ports: tuple[int, ...] = ()
    ingress_class: str | None = None
    tls_secret: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectNames:
    """The names of a sandbox's objects, fixed when it is created. Only the Kubernetes engine makes objects.

    `secret`: the names of the Secrets begin with it; a former release had one of that name.
    """

    stateful_set: str
    service: str
    secret: str
    app_ingress: str
    ttyd_ingress: str

    @classmethod
    def of(cls, sandbox_id: str) -> "ObjectNames":
        """Returns the names for a new sandbox."""
        return cls(
            stateful_set=sandbox_id,
            service=f"{sandbox_id}-service",
            secret=f"{sandbox_id}-env",
            app_ingress=f"{sandbox_id}-app-ingress",
            ttyd_ingress=f"{sandbox_id}-ttyd-ingress",
        )


@dataclass(frozen=True, slots=True)
class Condition:
    """An aspect of a sandbox. A `status` of None is unknown; `transition_time` is when `status` last changed.

    `message` has the words of the cluster about why it does not hold, where it has any.
    """

    type: ConditionType
    status: bool | None
    reason: Reason
    transition_time: datetime
    message: str = ""


@dataclass(frozen=True, slots=True)
class VolumeStatus:
    """The disk as callers see it. `size` is what it has, as a Kubernetes quantity."""

    name: str
    size: str
    bound: bool


@dataclass(frozen=True, slots=True)
class DisruptionStatus:
    """A disruption as callers see it. `count` is the number of disruptions in a row, this one included."""

    reason: Reason
    message: str
    time: datetime
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The status that callers see. `lifecycle.decide` gives phase and reason; `status.record` makes the next status."""

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


@dataclass(frozen=True, slots=True)
class Template:
    """What the pod was made from, where mutations since need no other pod: of labels, the size of the disk, and resources
    that the pod is given where it runs.

    `generation`, `labels` and `resources` are those of the sandbox when the pod was made; `resources` is None if they have
    not changed since. Counts as long as the sandbox is at the generation `until`.
    """

    generation: int
    labels: Mapping[str, str]
    until: int
    resources: Resources | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """What the disk of a sandbox is made from when it is first made: a snapshot, or the disk of another sandbox.

    `snapshot_uid` is empty for a clone. `sandbox` and `volume_uid` are of the sandbox whose disk the snapshot is of, or that is
    cloned, and its disk.
    """

    snapshot_uid: str
    sandbox: Key
    volume_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """What of the objects of a sandbox stays as a former system made it. Parts of manifests are in JSON.

    - `uids`: the objects that were there, but for the disk and the pod.
    - `workload`: the fields of the StatefulSet's spec that can never change.
    - `selector`: the labels by which the StatefulSet selects its pods.
    - `container`: the name of the container.
    - `headless`: whether the Service has no address of its own. That can never change.
    - `app_ingress`, `ttyd_ingress`: the spec and the annotations; empty if there was none. A path without a backend leads to
      the port that the Ingress is for.
    - `ingresses`: the names of further Ingresses, which stay as they are and go with the sandbox.
    - `keeps_pod`: the pod that was there stays until the first mutation that replaces it.
    - `given_back`: the objects are to be as they were before.
    - `pod`, `incarnation`: of a Deployment, whose files have to be moved: its pod, and the incarnation of its container that has
      them. `pod` is empty for a StatefulSet.
    - `moved`: the sandbox has its files, and has settled with them: the Deployment goes.
    """

    uids: tuple[str, ...]
    workload: str
    selector: Mapping[str, str]
    container: str
    headless: bool = True
    app_ingress: str = ""
    ttyd_ingress: str = ""
    ingresses: tuple[str, ...] = ()
    keeps_pod: bool = False
    given_back: bool = False
    pod: str = ""
    incarnation: str = ""
    moved: bool = False


@dataclass(frozen=True, slots=True)
class LastSnapshot:
    """That the deletion of a sandbox waits for a snapshot of its disk. `message` says how that stands."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A sandbox as the store has it, all but the values of its environment.

    - `host`: the unique name in its URLs, 12 characters beginning with a letter.
    - `start_generation`: the generation of the last mutation that asked for RUNNING.
    - `attempt_at`: when the present attempt to run began. The start deadline counts from it.
    - `applied_generation`, `applied_revision`: the generation that was last applied, and the workload's revision then.
    - `volume_uid`: the uid of the disk that has its data; empty until the disk is first observed.
    - `home_folder`: the folder of the disk that is its home. Empty means the whole disk, as in the first release.
    - `filled_generation`: the first generation that was RUNNING on this disk, 0 before. Later ones find a home on it.
    - `disrupted_pod`: the uid of the pod that the last disruption ended.
    - `disruptions`: how many disruptions there were in a row.
    - `template`: what its pod was made from, if that is not what the sandbox is now. Read `pod_generation`, `pod_labels`.
    - `origin`: what its disk is made from, if not from nothing. It counts until `volume_uid` is set.
    - `last_snapshot`: what its deletion waits for; None if for nothing.
    - `adopted`: what stays as a former system made it; None if the service made the sandbox.
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
    objects: ObjectNames
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
    template: Template | None = None
    origin: Origin | None = None
    adopted: Adopted | None = None
    last_snapshot: LastSnapshot | None = None

    @property
    def awaits_takeover(self) -> bool:
        """Whether everything still is as a former system made it, but for the marks of the service."""
        waits = self.adopted is not None and self.adopted.keeps_pod and self.pod_generation == 1
        return waits or self.moves

    @property
    def moves(self) -> bool:
        """Whether its files are being moved out of the pod of a Deployment, which is there until they are."""
        return self.adopted is not None and self.adopted.pod != "" and not self.adopted.moved

    @property
    def pod_generation(self) -> int:
        """The generation from which its pod is made. Later ones have changed nothing of the pod."""
        return self.generation if self._made_from is None else self._made_from.generation

    @property
    def pod_labels(self) -> Mapping[str, str]:
        """The labels from which its pod is made."""
        return self.spec.labels if self._made_from is None else self._made_from.labels

    @property
    def pod_resources(self) -> Resources:
        """The resources from which its pod is made."""
        return self.spec.resources if self.resized_from is None else self.resized_from

    @property
    def resized_from(self) -> Resources | None:
        """The resources from which its pod is made, where the pod is given those of the spec once it runs; else None."""
        return None if self._made_from is None else self._made_from.resources

    @property
    def _made_from(self) -> Template | None:
        return self.template if self.template is not None and self.template.until == self.generation else None

    @property
    def key(self) -> Key:
        """The key of the sandbox."""
        return Key(self.namespace, self.id)

    @property
    def fills_home(self) -> bool:
        """Whether the pod of this generation first copies the image's home to the disk.

        The answer stays the same while the pod's generation does: another template would restart the pod.
        """
        has_ever_run = self.filled_generation != 0
        home_is_filled = has_ever_run and self.pod_generation > self.filled_generation
        made_from_another = self.origin is not None
        return self.home_folder != "" and not home_is_filled and not made_from_another and self.spec.copy_image_home
