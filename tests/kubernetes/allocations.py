"""What a kubelet does where a pod that runs is asked to have other CPU and memory (pkg/kubelet/allocation)."""

from collections.abc import Iterable
from typing import Any

from sandbox_server.domain import check

from tests.kubernetes import kubelet

PENDING = "PodResizePending"


class Allocations:
    """What each pod of a node has been given, by the uid of the pod. Requests are in millicores and bytes.

    `capacity`: what all pods may request together. A pod that starts gets what it asks for: the scheduler has looked.
    """

    def __init__(self) -> None:
        self.capacity = {"cpu": 4_000_000, "memory": 2**44}
        self._given: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, int] = {}
        self._pending: dict[str, tuple[str, str]] = {}

    def look(self, pod: dict[str, Any], pods: Iterable[dict[str, Any]]) -> bool:
        """Gives a pod what its spec asks for, as far as the `pods` of the node leave it. Returns whether anything changed."""
        uid, generation = pod["metadata"]["uid"], pod["metadata"].get("generation", 0)
        before = self._given.get(uid), self._seen.get(uid), self._pending.get(uid)
        self._seen[uid] = generation
        asked = kubelet.own(pod).get("resources", {})
        refusal = None
        if before[0] is not None and before[0] != asked:
            refusal = self._refusal(uid, asked, pods)
        if refusal is None:
            self._given[uid] = asked
            self._pending.pop(uid, None)
        else:
            self._pending[uid] = refusal
        return before != (self._given[uid], generation, self._pending.get(uid))

    def forget(self, uid: str) -> None:
        """Has what a pod was given for others."""
        for one in (self._given, self._seen, self._pending):
            one.pop(uid, None)  # type: ignore[attr-defined]

    def shown(self, pod: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
        """The status of a pod with what it has been given, as a strategic merge patch."""
        uid = pod["metadata"]["uid"]
        if uid not in self._given:
            return status
        given, name = self._given[uid], kubelet.own(pod)["name"]
        has = {"resources": given, "allocatedResources": given.get("requests", {})}
        containers = [one | has if one["name"] == name else one for one in status.get("containerStatuses", [])]
        # The entry of the patch that removes a condition, where the pod waits for nothing.
        waits: dict[str, Any] = {"type": PENDING, "$patch": "delete"}
        if uid in self._pending:
            reason, message = self._pending[uid]
            waits = kubelet.condition(PENDING) | {"reason": reason, "message": message}
        conditions = [*status.get("conditions", []), waits]
        return status | {
            "observedGeneration": self._seen[uid],
            "conditions": conditions,
            **({"containerStatuses": containers} if containers else {}),
        }

    def _refusal(self, uid: str, asked: dict[str, Any], pods: Iterable[dict[str, Any]]) -> tuple[str, str] | None:
        """Why a pod does not get what it asks for: the reason of its condition, and the words."""
        others = [one["metadata"]["uid"] for one in pods if one["metadata"]["uid"] != uid]
        for name, capacity in self.capacity.items():
            wanted = _requested(asked, name)
            if wanted > capacity:
                words = f"{name}, requested: {wanted}, capacity: {capacity}"
                return "Infeasible", f"Node didn't have enough capacity: {words}"
        for name, capacity in self.capacity.items():
            wanted = _requested(asked, name)
            used = sum(_requested(self._given.get(one, {}), name) for one in others)
            if used + wanted > capacity:
                words = f"{name}, requested: {wanted}, used: {used}, capacity: {capacity}"
                return "Deferred", f"Node didn't have enough resource: {words}"
        return None


def _requested(resources: dict[str, Any], name: str) -> int:
    amount = check.amount(str(resources.get("requests", {}).get(name, "0")))
    return int(amount * 1000 if name == "cpu" else amount)
