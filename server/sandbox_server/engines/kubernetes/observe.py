"""What the cluster's objects and messages mean to the domain.

Where Kubernetes has a field for what matters, the field is read. Where it only has a message, the pattern stands beside the
place in its sources (1.36) that writes the message.
"""

import re
import zlib
from collections.abc import Iterable

from sandbox_server.domain import ownership
from sandbox_server.domain.observed import Exit, Fault, Pod, Volume, Workload
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.kubernetes import containers, disruptions, growth, manifests, provisioners, resources
from sandbox_server.engines.kubernetes.containers import Cause
from sandbox_server.engines.kubernetes.objects import Container, Object, State, Status

_REFUSALS: tuple[tuple[str, Reason], ...] = (
    # apiserver/pkg/admission/plugin/resourcequota/controller.go, in an answer or in a controller's event
    (r"(exceeded|failed|insufficient) quota", Reason.QUOTA_EXCEEDED),
    # apiserver/pkg/admission/plugin/namespace/lifecycle/admission.go
    (r"in namespace \S+ because it is being terminated", Reason.NAMESPACE_TERMINATING),
    # the same file, by apimachinery/pkg/api/errors.NewNotFound
    (r'^namespaces "\S+" not found', Reason.NAMESPACE_MISSING),
    # apiserver/pkg/endpoints/handlers/responsewriters/errors.go, and pkg/endpoints/filters/authentication.go
    (r'User ".*" cannot \w+ resource|^Unauthorized$', Reason.CLUSTER_FORBIDDEN),
    # apimachinery/pkg/api/errors.NewForbidden, as every admission plugin says it; webhooks and policies:
    # apiserver/pkg/admission/plugin/webhook/errors/statuserror.go, .../policy/validating/dispatcher.go
    (r"forbidden: |denied (the )?request", Reason.ADMISSION_DENIED),
)

REVISION = "controller-revision-hash"
"""The label of a pod that names the template it was made from, as the StatefulSet's status does (api/apps/v1/types.go)."""

PROTECTION = "kubernetes.io/pvc-protection"
"""The finalizer that keeps a claim while a pod uses it."""
_OWN_FINALIZERS = (PROTECTION, "foregroundDeletion", "orphan")

INCOMPLETE = -1
"""The revision while an object is missing. No apply returns it."""
_APPLIED = (manifests.FIELD_MANAGER, "Apply")


def identify(found: Object) -> tuple[str, str]:
    """Returns the name of an object, and the id of the sandbox that it belongs to. A claim may have lost its label."""
    meta = found.metadata
    return meta.name, meta.labels.get(manifests.ID) or resources.sandbox_of_claim(meta.name)


def placeholder(sandbox: Sandbox, found: Object) -> bool:
    """Whether a claim is a placeholder that the StatefulSet controller made for a further pod.

    The controller makes further pods when somebody scales the StatefulSet by hand, or changes its first ordinal.
    """
    name, _, ordinal = found.metadata.name.rpartition("-")
    if name != resources.claim_name(sandbox).removesuffix("-0") or not ordinal.isdecimal() or ordinal == "0":
        return False
    return manifests.PLACEHOLDER in found.metadata.annotations


def refused(message: str) -> Fault:
    """Returns what a refusal of the API server, or a controller's event, means."""
    reason = next((reason for pattern, reason in _REFUSALS if re.search(pattern, message)), Reason.ENGINE_REFUSED)
    return Fault(reason, message)


def owned(sandbox: Sandbox, found: Object) -> bool:
    """Whether an object of any kind that has a name of the sandbox belongs to it. A placeholder goes with its name."""
    is_placeholder = manifests.PLACEHOLDER in found.metadata.annotations
    # One that was adopted and has got another owner since is that one's.
    unmarked = manifests.UID not in found.metadata.annotations
    adopted = unmarked and ownership.was_adopted(sandbox, found.metadata.uid)
    return is_placeholder or adopted or ownership.owned(sandbox, volume(found))


def workload(found: Object) -> Workload:
    """Returns what the domain reads of a StatefulSet, or of another object that the service applies.

    The revision stands for the fields that our field manager owns. A field that somebody else changes or removes is no
    longer ours. Fields that others add are not counted.
    """
    meta = found.metadata
    fields = [entry.fieldsV1 for entry in meta.managedFields if (entry.manager, entry.operation) == _APPLIED]
    # A StatefulSet that has had no replicas from the first needs no controller to see that.
    seen_by_controller = found.status.observedGeneration >= meta.generation
    never_had_replicas = meta.generation == 1 and found.spec.replicas == 0
    return Workload(
        owner=meta.annotations.get(manifests.UID, ""),
        generation=_generation(found),
        replicas=found.spec.replicas,
        revision=zlib.crc32(b"".join(fields)),
        terminating=meta.deletionTimestamp is not None,
        controller_caught_up=seen_by_controller or never_had_replicas,
        template=found.status.updateRevision,
        held_by=_held_by(found),
        environments=_environments(found),
    )


def _environments(found: Object) -> tuple[str, ...]:
    """The Secrets that a Service lists, or that the template of a StatefulSet names."""
    listed = found.metadata.annotations.get(manifests.ENVIRONMENTS, "").split()
    sources = [source for container in found.spec.template.spec.containers for source in container.envFrom]
    return (*listed, *(source.secretRef.name for source in sources if source.secretRef.name))


def revision(made: Iterable[Workload | None]) -> int:
    """Returns one revision for all objects of a sandbox: `INCOMPLETE` if one of them is missing."""
    revisions: list[int] = []
    for found in made:
        if found is None:
            return INCOMPLETE
        revisions.append(found.revision)
    return zlib.crc32(repr(revisions).encode())


def volume(found: Object) -> Volume:
    """Returns what the domain reads of a claim. A placeholder, which is no disk, has no uid."""
    meta = found.metadata
    return Volume(
        owner=meta.annotations.get(manifests.UID, ""),
        uid="" if manifests.PLACEHOLDER in meta.annotations else meta.uid,
        name=meta.name,
        size=found.status.capacity.get("storage") or found.spec.resources.requests.get("storage", ""),
        requested=found.spec.resources.requests.get("storage", ""),
        growth=growth.of(found),
        bound=found.status.phase == "Bound",
        terminating=meta.deletionTimestamp is not None,
        # controller/volume/persistentvolume/pv_controller.go, when the bound volume is removed
        lost=found.status.phase == "Lost",
        held_by=_held_by(found),
        home=meta.annotations.get(manifests.HOME, ""),
        misled=provisioners.misled(found),
    )


def unbound(sandbox: Sandbox, message: str) -> Reason:
    """Returns what an event about the claim of a sandbox that is not bound means."""
    return Reason.VOLUME_PENDING if sandbox.origin is None else unrestored(message)


def unrestored(message: str) -> Reason:
    """Returns what an event means about a claim whose disk is to be made from another: SCHEDULING if the storage goes on."""
    # external-provisioner/pkg/controller/controller.go, prepareProvision and getSnapshotSource; what a driver answers.
    is_gone = r"error getting handle for DataSource .*(not found|is being deleted|is currently being deleted)|code = NotFound "
    if re.search(is_gone, message):
        return Reason.RESTORE_FAILED
    # sig-storage-lib-external-provisioner and external-provisioner, checkError: the driver goes on, and a copy takes its time.
    goes_on = r"code = (Canceled|DeadlineExceeded|Unavailable|Aborted) "
    return Reason.SCHEDULING if re.search(goes_on, message) else Reason.VOLUME_PENDING


def _held_by(found: Object) -> tuple[str, ...]:
    """The finalizers that keep an object which is being removed, apart from the cluster's own, which go by themselves."""
    meta = found.metadata
    return tuple(one for one in meta.finalizers if one not in _OWN_FINALIZERS) if meta.deletionTimestamp else ()


def pod(found: Object) -> Pod:
    """Returns what the domain reads of a pod.

    The last exit and the image are those of the sandbox's container; other containers may have been injected. The message
    is empty while the pod has no volumes or no network: only an event says why.
    """
    meta, status = found.metadata, found.status
    named = containers.named(found)
    container = containers.own(found)
    conditions = {one.type: one for one in status.conditions}
    ready, scheduled = conditions.get("Ready", State()), conditions.get("PodScheduled", State())
    begun = conditions.get("PodReadyToStartContainers", State()).status == "True"
    last = container.state.get("terminated") or container.lastState.get("terminated")
    ended = disruptions.of(found)
    cause = Cause(ended.reason, ended.message) if ended else _cause(status, container, ready, scheduled)
    lost = _node_lost(container, ready)
    unexplained = cause.reason is Reason.CONTAINER_CREATING and cause.message == ""
    pulled = True if container.imageID or "running" in container.state else None
    return Pod(
        owner=meta.annotations.get(manifests.UID, ""),
        generation=_generation(found),
        uid=meta.uid,
        ready=ready.status == "True" and status.phase != "Failed",
        reason=cause.reason,
        message=containers.MAKING if begun and unexplained else cause.message,
        quoted=cause.quoted,
        passing=cause.passing,
        awaits_probe=cause.awaits_probe,
        terminating=meta.deletionTimestamp is not None,
        scheduled=scheduled.status == "True",
        image_pulled=False if cause.reason in (Reason.IMAGE_PULL, Reason.IMAGE_INVALID) else pulled,
        restart_count=containers.restarts(status),
        disruption=ended,
        template=meta.labels.get(REVISION, ""),
        last_exit=Exit(last.exitCode, last.reason or "Error", last.message) if last else None,
        # A lost node says nothing of what it runs. It counts as ended, until the node comes back.
        incarnation="" if lost or status.phase == "Failed" else containers.incarnation(meta.uid, container),
        last_exit_of=containers.last_exit_of(meta.uid, container) if last else "",
        requested=next((growth.amounts(one.resources) for one in found.spec.containers if one.name == named), None),
        resize=growth.of_pod(found),
    )


def cause(found: Object) -> Cause:
    """Returns why a pod is not ready: the domain's reason and the cluster's message."""
    conditions = {one.type: one for one in found.status.conditions}
    ready, scheduled = conditions.get("Ready", State()), conditions.get("PodScheduled", State())
    return _cause(found.status, containers.own(found), ready, scheduled)


def _cause(status: Status, container: Container, ready: State, scheduled: State) -> Cause:
    """Returns why the pod is not ready: the domain's reason and the cluster's message."""
    if ready.status == "True":
        return Cause(Reason.READY, "the pod is ready")
    if _node_lost(container, ready):
        return Cause(Reason.NODE_LOST, "the pod's node does not answer")
    if scheduled.status != "True":
        return _unscheduled(scheduled)
    return containers.cause(status, container, ready)


def _node_lost(container: Container, ready: State) -> bool:
    # controller/util/node/controller_utils.go (MarkPodsNotReady) turns Ready alone and gives no reason; the kubelet
    # gives one, and withdraws the container's own with it unless a readiness gate is missing.
    return ready.status not in ("", "True") and not ready.reason and container.ready


def _unscheduled(scheduled: State) -> Cause:
    # scheduler/framework/plugins/volumebinding/volume_binding.go: the first passes when the claim is bound, the others
    # (not found, being deleted, bound to a volume that is gone) do not.
    unbound = "unbound immediate PersistentVolumeClaims" in scheduled.message
    if not scheduled.status or scheduled.reason == "SchedulingGated" or unbound:
        return Cause(Reason.SCHEDULING, scheduled.message or "waiting for a node")
    if 'persistentvolumeclaim "' in scheduled.message:
        return Cause(Reason.VOLUME_PENDING, scheduled.message)
    return Cause(Reason.UNSCHEDULABLE, scheduled.message)


def _generation(found: Object) -> int:
    text = found.metadata.annotations.get(manifests.GENERATION, "")
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else 0
