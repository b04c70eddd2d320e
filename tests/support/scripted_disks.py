"""What a scripted cluster does with the sizes of claims: admission, the resizer beside a CSI driver, and the kubelet.

Words and stages are those of Kubernetes 1.36 and external-resizer 2.2.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sandbox_server.domain import check

CLASS = "standard"
DRIVER = "csi.example"
"""The provisioner that is a driver of CSI."""
PROVISIONER = "volume.kubernetes.io/storage-provisioner"
NOT_EXPANDABLE = (
    'persistentvolumeclaims "{name}" is forbidden: only dynamically provisioned pvc can be resized and the storageclass '
    "that provisions the pvc must support resize"
)
FULL = 'rpc error: code = OutOfRange desc = the pool "fast" has 12Gi'
GONE = (
    "Failed to create snapshot content with error snapshot controller failed to update s on API server: "
    'failed to retrieve PVC {name} from the lister: "persistentvolumeclaim \\"{name}\\" not found"'
)
BUSY = "rpc error: code = Unavailable desc = the array does not answer"

Put = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass
class Disks:
    """`expandable`: whether the storage class lets disks grow. `most`: the largest disk that the storage can make.

    `held`: the resizer does nothing yet. `failing`: each try of the resizer fails for now. `offline`: the file system grows
    only when a pod starts. `recovers`: a request may be lowered, as since Kubernetes 1.34.
    `provisioner` makes the disks; if it is empty, claims are bound to volumes that were there before.
    """

    expandable: bool = True
    most: str = "64Ti"
    held: bool = False
    failing: bool = False
    offline: bool = False
    recovers: bool = True
    provisioner: str = DRIVER
    refused: list[str] = field(default_factory=list)
    """The sizes that were asked for in vain."""
    made_from: dict[str, str] = field(default_factory=dict)
    """The uid of the claim whose files a disk began with, by the uid of its own claim."""

    def bound(self, claim: dict[str, Any]) -> dict[str, Any]:
        """A claim whose pod starts: it is bound with the size that it asked for, and its file system grows.

        Who makes its disk is noted when that is done.
        """
        before, meta = claim.get("status", {}), claim["metadata"]
        if self.provisioner and before.get("phase") != "Bound":
            claim = claim | {"metadata": meta | {"annotations": meta["annotations"] | {PROVISIONER: self.provisioner}}}
        capacity = before.get("capacity", {"storage": requested(claim)})
        if _pending(before):
            return claim | {"status": {"phase": "Bound", "capacity": {"storage": requested(claim)}}}
        return claim | {"status": before | {"phase": "Bound", "capacity": capacity}}

    def provisions(self, claim: dict[str, Any], snapshots: dict[str, dict[str, Any]]) -> bool:
        """Whether external-provisioner makes the disk of a claim: an empty one, or one from a VolumeSnapshot that is ready and
        needs no more than the claim asks for."""
        source = claim["spec"].get("dataSource")
        if source is None or self.provisioner != DRIVER or claim.get("status", {}).get("phase") == "Bound":
            # What is no driver of CSI ignores the source.
            return True
        assert source["kind"] == "VolumeSnapshot", source
        status = snapshots.get(source["name"], {}).get("status", {})
        if not status.get("readyToUse"):
            return False
        self.made_from[claim["metadata"]["uid"]] = status["of"]
        return check.amount(requested(claim)) >= check.amount(status["restoreSize"])

    def taken(self, snapshot: dict[str, Any], claims: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """What the status of a VolumeSnapshot says once the storage has tried. `of`: the uid of the claim, which no cluster says."""
        name = snapshot["spec"]["source"]["persistentVolumeClaimName"]
        claim = claims.get(name)
        if claim is None:
            words = GONE.format(name=name)
            return {"readyToUse": False, "error": {"message": words}}
        size = claim.get("status", {}).get("capacity", {}).get("storage") or requested(claim)
        content = {"boundVolumeSnapshotContentName": "content"}
        return {"readyToUse": True, "restoreSize": size, "of": claim["metadata"]["uid"]} | content

    def refusal(self, before: dict[str, Any], after: dict[str, Any]) -> tuple[int, str] | None:
        """The code and the words of the answer to a change of a claim; None if it is made."""
        was, asked = check.amount(requested(before)), check.amount(requested(after))
        if _without_request(before) != _without_request(after) or before.get("status", {}).get("phase") != "Bound":
            words = (
                "spec: Forbidden: spec is immutable after creation except resources.requests and "
                "volumeAttributesClassName for bound claims"
            )
            return 422, f'"{before["metadata"]["name"]}" is invalid: {words}'
        found = None
        if asked > was and not self.expandable:
            found = 403, NOT_EXPANDABLE.format(name=before["metadata"]["name"])
        if asked < was:
            has = check.amount(before["status"]["capacity"]["storage"])
            least = "status.capacity" if self.recovers else "previous value"
            if not self.recovers or asked <= has:
                words = f"spec.resources.requests.storage: Forbidden: field can not be less than {least}"
                found = 422, f'PersistentVolumeClaim "{before["metadata"]["name"]}" is invalid: {words}'
        if found is not None:
            self.refused.append(requested(after))
        return found

    def step(self, claim: dict[str, Any], has_pod: bool, put: Put, tell: Callable[[dict[str, Any]], object]) -> bool:
        """Brings the disk of a claim one step towards what the claim asks for; whether there is another step.

        `put` stores the claim, and `tell` an event about it.
        """
        status, asked = claim.get("status", {}), requested(claim)
        if status.get("phase") != "Bound" or self.held:
            return False
        if check.amount(asked) <= check.amount(status["capacity"]["storage"]):
            return False
        if _stage(status) != "ControllerResizeInProgress" and not _pending(status):
            put(claim | {"status": status | _staged(asked, "ControllerResizeInProgress", "Resizing", "")})
            return True
        if not _pending(status):
            return self._controlled(claim, put, tell)
        if not has_pod or self.offline:
            return False
        put(claim | {"status": {"phase": "Bound", "capacity": {"storage": asked}}})
        return False

    def _controlled(self, claim: dict[str, Any], put: Put, tell: Callable[[dict[str, Any]], object]) -> bool:
        """What the resizer does with a disk that it has begun to make larger."""
        status, asked = claim["status"], requested(claim)
        if status["allocatedResources"]["storage"] != asked:
            put(claim | {"status": status | _staged(asked, "ControllerResizeInProgress", "Resizing", "")})
            return True
        infeasible = check.amount(asked) > check.amount(self.most)
        if infeasible or self.failing:
            words = f'resize volume "pv" by resizer "csi" failed: {FULL if infeasible else BUSY}'
            tell(_event(claim, words))
            if infeasible:
                words = f"failed to expand pvc with {FULL}"
                staged = _staged(asked, "ControllerResizeInfeasible", "ControllerResizeError", words)
                put(claim | {"status": status | staged})
            return False
        words = "Waiting for user to (re-)start a pod to finish file system resize of volume on node."
        put(claim | {"status": status | _staged(asked, "NodeResizePending", "FileSystemResizePending", words)})
        return True


def requested(claim: dict[str, Any]) -> str:
    """What a claim asks for."""
    return str(claim["spec"]["resources"]["requests"]["storage"])


def _stage(status: dict[str, Any]) -> str:
    return str(status.get("allocatedResourceStatuses", {}).get("storage", ""))


def _pending(status: dict[str, Any]) -> bool:
    return _stage(status) == "NodeResizePending"


def _staged(asked: str, stage: str, condition: str, words: str) -> dict[str, Any]:
    return {
        "allocatedResources": {"storage": asked},
        "allocatedResourceStatuses": {"storage": stage},
        "conditions": [{"type": condition, "status": "True", "message": words}],
    }


def _without_request(claim: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in claim["spec"].items() if name != "resources"}


def _event(claim: dict[str, Any], words: str) -> dict[str, Any]:
    meta = claim["metadata"]
    return {
        "metadata": {"name": f"resize-{uuid.uuid4()}"},
        "involvedObject": {"kind": "PersistentVolumeClaim", "name": meta["name"], "uid": meta["uid"]},
        "type": "Warning",
        "reason": "VolumeResizeFailed",
        "message": words,
    }
