"""What a scripted cluster does where a pod that runs is given other CPU and memory: the API server's part, and the kubelet's.

Words and conditions are those of Kubernetes 1.36.
"""

from dataclasses import dataclass, field
from typing import Any

from tests.support.scripted_quantities import kept

DEFERRED = "Node didn't have enough resource: cpu, requested: 3000, used: 1500, capacity: 4000"
INFEASIBLE = "Node didn't have enough capacity: cpu, requested: 100000, capacity: 4000"
QOS = 'Pod "{name}" is invalid: spec: Invalid value: "Guaranteed": Pod QOS Class may not change as a result of resizing'


@dataclass
class Resizes:
    """`served`: whether the API server has the subresource. `pending`: why the kubelet waits, Deferred or Infeasible.

    `held`: the kubelet has not looked yet. `refused`: what the API server answers, as a code and words.
    """

    served: bool = True
    pending: str = ""
    held: bool = False
    refused: tuple[int, str] | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    """The resources that were asked for and accepted."""

    def resized(self, pod: dict[str, Any], body: dict[str, Any]) -> dict[str, Any] | tuple[int, str]:
        """The pod with the resources of a strategic merge patch; or the code and the words of a refusal."""
        meta = pod["metadata"]
        if not self.served:
            return 404, "the server could not find the requested resource"
        given = body["metadata"]
        if (given["uid"], given["resourceVersion"]) != (meta["uid"], meta["resourceVersion"]):
            return 409, f'Operation cannot be fulfilled on pods "{meta["name"]}": the object has been modified'
        if self.refused is not None:
            return self.refused
        (change,) = body["spec"]["containers"]
        (container,) = pod["spec"]["containers"]
        assert change["name"] == container["name"]
        before = container["resources"]
        asked = {
            kind: {name: kept(one) for name, one in change["resources"][kind].items()} for kind in change["resources"]
        }
        resources = {kind: before.get(kind, {}) | asked[kind] for kind in ("requests", "limits")}
        resized = pod | {"spec": pod["spec"] | {"containers": [container | {"resources": resources}]}}
        if _guaranteed(pod) is not _guaranteed(resized):
            return 422, QOS.format(name=meta["name"])
        self.asked.append(resources)
        return resized

    def seen(self, pod: dict[str, Any]) -> dict[str, Any]:
        """The pod once its kubelet has looked at its resources."""
        if self.held:
            return pod
        conditions = [one for one in pod["status"]["conditions"] if not one["type"].startswith("PodResize")]
        if self.pending:
            words = DEFERRED if self.pending == "Deferred" else INFEASIBLE
            waits = {"type": "PodResizePending", "status": "True", "reason": self.pending, "message": words}
            conditions.append(waits)
        seen = {"conditions": conditions, "observedGeneration": pod["metadata"]["generation"]}
        return pod | {"status": pod["status"] | seen}


def _guaranteed(pod: dict[str, Any]) -> bool:
    """Whether the limits of every container, also of those that are done, are its requests."""
    containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    amounts = [one.get("resources", {}) for one in containers]
    return all(one.get("limits") and one["limits"] == one.get("requests") for one in amounts)
