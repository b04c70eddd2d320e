"""The objects of a sandbox: their kinds, and where they are."""

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from sandbox_server.domain.sandbox import ObjectNames, Origin, Sandbox
from sandbox_server.engines.kubernetes import pods
from sandbox_server.engines.kubernetes.patch import Manifest

T = TypeVar("T")


class Kind(enum.Enum):
    """A kind of objects: its name, the version of its API, and its plural, which stands in paths."""

    CLAIM = "PersistentVolumeClaim", "v1", "persistentvolumeclaims"
    SECRET = "Secret", "v1", "secrets"
    SERVICE = "Service", "v1", "services"
    INGRESS = "Ingress", "networking.k8s.io/v1", "ingresses"
    STATEFUL_SET = "StatefulSet", "apps/v1", "statefulsets"
    DEPLOYMENT = "Deployment", "apps/v1", "deployments"
    REPLICA_SET = "ReplicaSet", "apps/v1", "replicasets"
    POD = "Pod", "v1", "pods"
    EVENT = "Event", "v1", "events"
    SNAPSHOT = "VolumeSnapshot", "snapshot.storage.k8s.io/v1", "volumesnapshots"

    def __init__(self, title: str, api_version: str, plural: str) -> None:
        self.title = title
        self.api_version = api_version
        self.plural = plural

    @property
    def group(self) -> str:
        """The API group, as a Role names it; empty for the first one."""
        return self.api_version.rpartition("/")[0]


class Reference(NamedTuple):
    """Where an object is. Messages name it as `str` does: `Service demo-service`."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.title} {self.name}"


@dataclass(frozen=True, slots=True)
class Resource:
    """An object as the service applies it."""

    reference: Reference
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Resources(Generic[T]):
    """One value for each object of a sandbox, in the order in which the objects are applied."""

    service: T
    claim: T
    secret: T
    app_ingress: T
    ttyd_ingress: T
    stateful_set: T

    @property
    def watched(self) -> tuple[T, T, T, T]:
        """Those of the objects that are written again and again and may be watched, the StatefulSet last."""
        return self.service, self.app_ingress, self.ttyd_ingress, self.stateful_set

    @property
    def written(self) -> tuple[T, T, T, T, T]:
        """Those of the objects that are written again and again: all but the claim."""
        return self.service, self.secret, self.app_ingress, self.ttyd_ingress, self.stateful_set

    def __iter__(self) -> Iterator[T]:
        service, *others = self.written
        yield from (service, self.claim, *others)


def names(sandbox: Sandbox) -> Resources[Reference]:
    """Returns where the objects of the sandbox are. The Secret is that of the generation from which its pod is made."""
    objects = sandbox.objects
    return _references(sandbox.namespace, objects, f"{objects.secret}-{sandbox.pod_generation}")


def named(namespace: str, objects: ObjectNames) -> Resources[Reference]:
    """Returns where the objects with these names are. The Secret is that of a former release."""
    return _references(namespace, objects, objects.secret)


def _references(namespace: str, objects: ObjectNames, secret: str) -> Resources[Reference]:
    return Resources(
        service=Reference(Kind.SERVICE, namespace, objects.service),
        claim=Reference(Kind.CLAIM, namespace, _claim_name(objects)),
        secret=Reference(Kind.SECRET, namespace, secret),
        app_ingress=Reference(Kind.INGRESS, namespace, objects.app_ingress),
        ttyd_ingress=Reference(Kind.INGRESS, namespace, objects.ttyd_ingress),
        stateful_set=Reference(Kind.STATEFUL_SET, namespace, objects.stateful_set),
    )


def snapshot(namespace: str, uid: str) -> Reference:
    """Returns where the VolumeSnapshot of the snapshot with that uid is."""
    return Reference(Kind.SNAPSHOT, namespace, f"snapshot-{uid}")


def scratch(kind: Kind, namespace: str, uid: str) -> Reference:
    """Returns where the claim or the pod is in which the snapshot with that uid is verified. No sandbox has such names."""
    return Reference(kind, namespace, f"verify-{uid}")


def source(sandbox: Sandbox) -> Reference | None:
    """Returns the VolumeSnapshot that the disk of a sandbox is made from; None if it begins empty.

    That of a clone is made for it alone, and has its uid in its name.
    """
    origin = sandbox.origin
    if origin is None:
        return None
    if origin.snapshot_uid:
        return snapshot(origin.sandbox.namespace, origin.snapshot_uid)
    return Reference(Kind.SNAPSHOT, sandbox.namespace, f"clone-{sandbox.uid}")


def cloned(origin: Origin) -> Reference:
    """Returns where the claim is whose disk is cloned."""
    return named(origin.sandbox.namespace, ObjectNames.of(origin.sandbox.id)).claim


def pod_name(sandbox: Sandbox) -> str:
    """Returns the name that the StatefulSet controller gives the pod."""
    return f"{sandbox.objects.stateful_set}-0"


def claim_name(sandbox: Sandbox) -> str:
    """Returns the name of the claim that the pod uses, as the StatefulSet controller derives it."""
    return _claim_name(sandbox.objects)


def _claim_name(objects: ObjectNames) -> str:
    return f"{pods.VOLUME}-{objects.stateful_set}-0"


def sandbox_of_claim(name: str) -> str:
    """Returns the id of the sandbox for whose pod a claim of that name is."""
    return re.sub("-[0-9]+$", "", name.removeprefix(f"{pods.VOLUME}-"))
