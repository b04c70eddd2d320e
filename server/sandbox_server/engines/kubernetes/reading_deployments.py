"""Reads what a former system made for a sandbox as a Deployment, whose files are in its pod alone: functions of manifests."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from sandbox_server.domain.adoption import Former
from sandbox_server.domain.observed import Pod
from sandbox_server.domain.sandbox import HOME_FOLDER
from sandbox_server.domain.spec import Storage
from sandbox_server.engines.kubernetes import manifests, observe, pods, reading, reading_pods
from sandbox_server.engines.kubernetes.objects import Object
from sandbox_server.engines.kubernetes.patch import Manifest
from sandbox_server.engines.kubernetes.reading_pods import Unread
from sandbox_server.settings import Defaults


@dataclass(frozen=True, slots=True)
class Owned:
    """The ReplicaSets and the pods of a namespace."""

    replica_sets: Sequence[Object]
    pods: Sequence[Object]

    def of(self, uid: str) -> list[Object]:
        """Returns the pods of the Deployment with that uid."""
        sets = {one.metadata.uid for one in self.replica_sets if _owned_by(one, {uid})}
        return [one for one in self.pods if _owned_by(one, sets)]


def _owned_by(found: Object, uids: set[str]) -> bool:
    return any(owner.uid in uids for owner in found.metadata.ownerReferences)


def pod(found: Object, container: str) -> Pod:
    """Returns what the domain reads of a pod of a former system, whose container has that name."""
    named = {**found.metadata.annotations, pods.NAMED: container}
    metadata = msgspec.structs.replace(found.metadata, annotations=named)
    return observe.pod(msgspec.structs.replace(found, metadata=metadata))


def read(deployment: Manifest, around: reading.Around, owned: Owned, project: str, defaults: Defaults) -> Former:
    """Returns what was made for a Deployment, with a disk of the default size. `project`: see `reading.read`.

    Raises `Unread` for one that the service could not run as it is, and for one whose pod does not run.
    """
    spec = deployment["spec"]
    reading.check_workload(deployment)
    container = reading_pods.container(spec["template"])
    _check_home(spec["template"]["spec"], container)
    name, claim = deployment["metadata"]["name"], f"{pods.VOLUME}-{deployment['metadata']['name']}-0"
    if claim in around.claims:
        raise Unread(
            f"there is a claim {claim} already, with files of another: remove that, or keep what is in it elsewhere"
        )
    running, incarnation = _running(deployment, container["name"], owned)
    storage = Storage(defaults.default_storage_size, defaults.storage_class, "ReadWriteOnce")
    found = reading.former(deployment, around, project, defaults, storage)
    adopted = replace(found.adopted, selector={manifests.ID: name}, pod=running, incarnation=incarnation)
    return replace(found, adopted=adopted, home_folder=HOME_FOLDER)


def _check_home(spec: Manifest, container: Manifest) -> None:
    mount = reading_pods.mount(container)
    volume: Manifest = next((one for one in spec.get("volumes") or () if one["name"] == mount.get("name")), {})
    if mount and "emptyDir" not in volume:
        raise Unread(
            f"its home is on the volume {mount['name']}, which may be shared with others: copy its files by hand"
        )


def _running(deployment: Manifest, container: str, owned: Owned) -> tuple[str, str]:
    """Returns the pod that has the files, and its incarnation. Raises `Unread` if it does not run."""
    if deployment["spec"].get("replicas", 1) == 0:
        raise Unread("it has no pod, and its files went with the last one: delete it, and create a sandbox")
    found = owned.of(deployment["metadata"]["uid"])
    if not found:
        raise Unread("it has no pod, which alone has its files: see why none is made, and try again")
    if len(found) > 1:
        names = ", ".join(one.metadata.name for one in found)
        raise Unread(f"it has several pods, and so several homes: {names}. Wait until there is one")
    (one,) = found
    seen = pod(one, container)
    if seen.terminating:
        raise Unread(f"its pod {one.metadata.name} is being removed, and its files with it: wait until another runs")
    if not seen.ready or not seen.incarnation:
        raise Unread(
            f"its pod {one.metadata.name}, which alone has its files, is down: {seen.reason.name} {seen.message}. Mend it, and try again"
        )
    return one.metadata.name, seen.incarnation
