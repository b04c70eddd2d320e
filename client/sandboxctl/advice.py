"""What the caller of a sandbox can do about its status."""

from sandbox.v1 import sandbox_pb2 as pb

_BY_REASON = {
    pb.REASON_IMAGE_PULL: "check the image's name and tag, and the access to its registry",
    pb.REASON_IMAGE_INVALID: "correct the image's name",
    pb.REASON_CRASH_LOOP: "read the last exit and its last words; correct the command, `sandboxctl env set`, or what is on "
    "the disk",
    pb.REASON_OUT_OF_MEMORY: "give it a higher memory limit, or let the process use less",
    pb.REASON_CONTAINER_CONFIG: "correct the command or the part of the spec that the message names",
    pb.REASON_VOLUME_LOST: "restore the disk, or give its data up: `sandboxctl start {id} --accept-data-loss`",
    pb.REASON_START_DEADLINE: "see what the start got to, in the message: mostly the probe or the command is wrong",
    pb.REASON_VOLUME_KEPT: "nothing; `sandboxctl create --id {id} --adopt-volume` takes the disk up, another "
    "`sandboxctl delete {id}` removes it",
    pb.REASON_POD_GONE: "nothing; `sandboxctl start {id}` starts it",
    pb.REASON_QUOTA_EXCEEDED: "stop or delete other sandboxes of the namespace, or ask its operators for more quota",
    pb.REASON_UNSCHEDULABLE: "wait for room; if it asks for more than any node has, give it smaller resources",
}
_MAKE_ROOM = "the disk is nearly full: remove files, or give it a larger size"
_BY_REMEDY = {
    pb.REMEDY_UNSPECIFIED: "nothing",
    pb.REMEDY_WAIT: "nothing yet: the service and the cluster are at work or try again by themselves",
    pb.REMEDY_CALLER: "change the spec, the variables or the command as the message says",
    pb.REMEDY_OPERATOR: "tell the operators of the cluster what the message says; the service goes on trying",
}


def next_step(status: pb.SandboxStatus) -> str:
    """Returns what to do."""
    known = _BY_REMEDY.get(status.remedy, "see the message")
    step = _BY_REASON.get(status.reason, known).format(id=status.sandbox_id)
    if not _nearly_full(status):
        return step
    return _MAKE_ROOM if step == _BY_REMEDY[pb.REMEDY_UNSPECIFIED] else f"{step}; {_MAKE_ROOM}"


def _nearly_full(status: pb.SandboxStatus) -> bool:
    """Whether the disk was nearly full when it was last measured."""
    full = (pb.CONDITION_TYPE_DISK_NEARLY_FULL, pb.CONDITION_STATUS_TRUE)
    return full in ((one.type, one.status) for one in status.conditions)
