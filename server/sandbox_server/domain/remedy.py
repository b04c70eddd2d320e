"""Who can remove the cause that a reason names. Derived from the reason and never stored."""

import enum

from sandbox_server.domain.phase import Reason
from sandbox_server.domain.snapshot import SnapshotReason


class Remedy(enum.Enum):
    """Who has to act. Numbers and meanings are those of `Remedy` in the contract."""

    UNSPECIFIED = 0
    WAIT = 1
    CALLER = 2
    OPERATOR = 3


NOBODY, WAIT, CALLER, OPERATOR = Remedy
_WORKING = "the service and the cluster are at work"

REMEDIES: dict[Reason, tuple[Remedy, str]] = {
    Reason.ACCEPTED: (WAIT, _WORKING),
    Reason.WORKLOAD_PENDING: (WAIT, _WORKING),
    Reason.SCHEDULING: (WAIT, _WORKING),
    Reason.VOLUME_BINDING: (WAIT, _WORKING),
    Reason.CONTAINER_CREATING: (
        WAIT,
        "the kubelet tries again what the message says, such as the first pull of an image",
    ),
    Reason.NOT_READY: (WAIT, "the process may still be starting; the start deadline ends this"),
    Reason.ROLLING_OUT: (WAIT, _WORKING),
    Reason.RESTARTING: (WAIT, "the container is being started again"),
    Reason.READY: (NOBODY, "the desired state is reached"),
    Reason.POD_TERMINATING: (WAIT, _WORKING),
    Reason.POD_GONE: (NOBODY, "the desired state is reached"),
    Reason.VOLUME_TERMINATING: (WAIT, "the disk goes as soon as no pod holds it; the next reason says what to do"),
    Reason.DELETED: (NOBODY, "the desired state is reached"),
    Reason.VOLUME_KEPT: (NOBODY, "the desired state is reached"),
    Reason.IMAGE_PULL: (CALLER, "the image's name, its tag or the access to its registry is wrong"),
    Reason.IMAGE_INVALID: (CALLER, "the image's name has to change"),
    Reason.CRASH_LOOP: (CALLER, "the command, its environment or what is on the disk makes the process end"),
    Reason.OUT_OF_MEMORY: (CALLER, "the process needs a higher memory limit, or less memory"),
    Reason.CONTAINER_CONFIG: (CALLER, "the command or another part of the spec cannot be started as it is"),
    Reason.UNSCHEDULABLE: (
        WAIT,
        "an autoscaler or the end of another pod may make room; what no node offers never comes",
    ),
    Reason.QUOTA_EXCEEDED: (OPERATOR, "the quota of the namespace has to grow, or others in it have to end"),
    Reason.ADMISSION_DENIED: (OPERATOR, "a policy, webhook or limit of the cluster has to allow it"),
    Reason.VOLUME_PENDING: (OPERATOR, "the storage of the cluster does not provide the disk"),
    Reason.VOLUME_LOST: (CALLER, "only the caller can give up the data: Start with accept_data_loss"),
    Reason.NODE_LOST: (WAIT, "the pod recovers with its node, or is replaced once the cluster gives the node up"),
    Reason.NAME_CONFLICT: (OPERATOR, "a foreign object has the name; it has to be removed"),
    Reason.START_DEADLINE: (
        CALLER,
        "waiting was tried; the message says what the start got to: mostly the probe or the command",
    ),
    Reason.NAMESPACE_MISSING: (OPERATOR, "the namespace has to be made"),
    Reason.NAMESPACE_TERMINATING: (OPERATOR, "the namespace is being removed; it has to be made again"),
    Reason.CLUSTER_FORBIDDEN: (OPERATOR, "the service's role lacks a right"),
    Reason.ENGINE_REFUSED: (
        OPERATOR,
        "the message says what was refused; the service cannot tell whose it is to change",
    ),
    Reason.CLUSTER_BUSY: (WAIT, "the API server says that it cannot take the request now; the service repeats it"),
    Reason.EVICTED: (WAIT, "the pod is replaced; again and again, its node lacks memory, disk or process ids"),
    Reason.PREEMPTED: (WAIT, "the pod is replaced once there is room for its priority"),
    Reason.DRAINED: (WAIT, "the pod is replaced on another node"),
    Reason.NODE_SHUTDOWN: (WAIT, "the pod is replaced on another node, or when its node is back"),
    Reason.NODE_REJECTED: (WAIT, "the pod is replaced; again and again, scheduler and kubelet disagree about a node"),
    Reason.NODE_TAINTED: (WAIT, "the pod is replaced on a node without that taint"),
    Reason.OTHER_CONTAINER: (
        OPERATOR,
        "the message names the container; whoever added it to the pods has to repair it",
    ),
    Reason.FIELD_CONFLICT: (OPERATOR, "another controller or person has to leave the service's objects alone"),
    Reason.VOLUME_EXPANDING: (WAIT, "the storage is at work, and tries again what the message says"),
    Reason.VOLUME_EXPANDS_AT_START: (CALLER, "the file system grows with the next start: Stop and Start"),
    Reason.CLASS_NOT_EXPANDABLE: (OPERATOR, "the storage class has to allow it; the caller can take the size back"),
    Reason.EXPANSION_INFEASIBLE: (CALLER, "the storage cannot make the disk that large: ask for less"),
    Reason.RESIZING: (WAIT, "the kubelet gives the pod what was asked for, and tries again what the message says"),
    Reason.RESIZE_DEFERRED: (WAIT, "the node may get room; Stop and Start choose another node"),
    Reason.RESIZE_INFEASIBLE: (CALLER, "the node can never give that much: ask for less, or Stop and Start"),
    Reason.LAST_SNAPSHOT: (
        WAIT,
        "the disk goes once its snapshot is READY; the message says what keeps it from that, and how to delete without one",
    ),
    Reason.DISK_NOT_MEASURED: (
        WAIT,
        "the disk is measured while the sandbox runs, where the service has usage-interval",
    ),
    Reason.DISK_FULL_SOON: (CALLER, "files have to be removed, or the disk needs more room"),
    Reason.VOLUME_RESTORING: (WAIT, "the storage copies; that takes the longer, the more is on the disk"),
    Reason.HOME_MOVING: (WAIT, "the files of its former pod are copied; that takes the longer, the more there are"),
    Reason.HOME_NOT_MOVED: (
        OPERATOR,
        "its former pod has to run, and to leave its files alone for a while; `sandbox-server adopt --undo` gives it back",
    ),
    Reason.RESTORE_FAILED: (
        CALLER,
        "the snapshot or the disk that it was to be made from is gone: delete the sandbox, and create it from another",
    ),
    Reason.GIVEN_BACK: (NOBODY, "the former system has it again"),
}
"""For each reason who can remove its cause, and why."""


def of(reason: Reason) -> Remedy:
    """Returns who can remove the cause that `reason` names; UNSPECIFIED for a reason of a newer release."""
    found = REMEDIES.get(reason)
    return Remedy.UNSPECIFIED if found is None else found[0]


OF_SNAPSHOTS: dict[SnapshotReason, tuple[Remedy, str]] = {
    SnapshotReason.ACCEPTED: (WAIT, _WORKING),
    SnapshotReason.COPYING: (WAIT, _WORKING),
    SnapshotReason.READY: (NOBODY, "it can be used"),
    SnapshotReason.DELETING: (WAIT, "it goes as soon as the disks are made that are made from it"),
    SnapshotReason.DELETED: (NOBODY, "nothing is left of it"),
    SnapshotReason.DISK_GONE: (
        CALLER,
        "there is nothing to take a snapshot of: create another, of a disk that is there",
    ),
    SnapshotReason.NOT_STOPPED: (CALLER, "the sandbox has to stay stopped until its snapshot is READY: create another"),
    SnapshotReason.UNSUPPORTED: (OPERATOR, "the cluster lacks snapshots, or a class of snapshots for the disk"),
    SnapshotReason.STORAGE_FAILED: (OPERATOR, "the message has what the storage says"),
    SnapshotReason.NO_SPACE: (OPERATOR, "the storage needs more room, or others have to give up some"),
    SnapshotReason.QUOTA_EXCEEDED: (OPERATOR, "the quota of the namespace has to grow, or others in it have to end"),
    SnapshotReason.FORBIDDEN: (OPERATOR, "the service's role lacks a right"),
    SnapshotReason.LOST: (CALLER, "what it consists of is not there: bring that back, or delete it and create another"),
    SnapshotReason.BUSY: (WAIT, "the service tries again"),
    SnapshotReason.RESTORING: (WAIT, _WORKING),
    SnapshotReason.COUNTING: (WAIT, "it takes the longer, the more is on the disk"),
    SnapshotReason.CLEARING: (WAIT, "the result is known; the storage removes the scratch"),
    SnapshotReason.VERIFIED: (NOBODY, "the snapshot can be restored"),
    SnapshotReason.MISMATCH: (
        CALLER,
        "the storage has changed what it keeps: take another snapshot, verify it, and tell the operators",
    ),
    SnapshotReason.UNREADABLE: (CALLER, "a file that its own user may not read is not verified; the message names it"),
    SnapshotReason.VERIFICATION_DEADLINE: (
        OPERATOR,
        "the message says what it got to: the storage or the image is missing, or the disk needs more time",
    ),
    SnapshotReason.POD_FAILED: (
        OPERATOR,
        "the message says why the pod cannot count: its image, its memory or its node",
    ),
}
"""The same for the reasons of snapshots."""


def of_snapshot(reason: SnapshotReason) -> Remedy:
    """Returns who can remove the cause that `reason` names; UNSPECIFIED for a reason of a newer release."""
    found = OF_SNAPSHOTS.get(reason)
    return Remedy.UNSPECIFIED if found is None else found[0]
