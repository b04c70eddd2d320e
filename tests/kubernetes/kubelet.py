"""What a kubelet writes of a pod: its phase, its conditions and the states of all its containers."""

import datetime
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

VARIABLE = "BEHAVIOUR"
"""The variable that says how a container behaves."""
CONTAINER = "sandbox"
"""The name of the container that is the sandbox's: an injected one may stand before it. A former system named it otherwise."""
FORMER = "-agentruntime-"
"""In the name of the container of a former system's Deployment, which has no disk."""
DISK = "vn-homevn-agent"
"""The volume that no other container mounts."""
BACK_OFF = "back-off 10s restarting failed container"
NO_COMMAND = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable "
    'to start container process: error during container init: exec: "no-such": executable file not found in $PATH'
)
DONE, RUN = "done", "run"


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def event_time(behind: float) -> str:
    """The time of an event by a clock that is so many seconds behind."""
    at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=behind)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(frozen=True)
class Container:
    """The state of one container. `pulled`: whether its image is on the node."""

    state: dict[str, Any]
    last: dict[str, Any] = field(default_factory=dict)
    ready: bool = False
    restarts: int = 0
    pulled: bool = True

    def status(self, spec: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": spec["name"],
            "image": spec["image"],
            "imageID": "simulated" if self.pulled else "",
            "ready": self.ready,
            "started": "running" in self.state,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last,
            "resources": spec.get("resources", {}),
        }


def is_sandbox(pod: dict[str, Any]) -> bool:
    """Whether a pod is of a sandbox."""
    return any(map(is_own, pod["spec"]["containers"]))


def counts(pod: dict[str, Any]) -> bool:
    """Whether a pod counts what was restored from a snapshot."""
    return "sandbox.fullstackagent.io/snapshot" in pod["metadata"].get("labels", {})


def is_own(container: dict[str, Any]) -> bool:
    """Whether a container is the sandbox's."""
    mounts = any(one["name"] == DISK for one in container.get("volumeMounts", []))
    return mounts or container["name"] == CONTAINER or FORMER in container["name"]


def own(pod: dict[str, Any]) -> Any:
    """The spec of the sandbox's container, or of the one that counts."""
    return next(one for one in pod["spec"]["containers"] if is_own(one) or counts(pod))


def runs(*, ready: bool = True, restarts: int = 0, last: dict[str, Any] | None = None) -> Container:
    return Container({"running": {"startedAt": now()}}, last or {}, ready=ready, restarts=restarts)


def waits(reason: str, message: str = "", *, pulled: bool = False, **more: Any) -> Container:
    return Container({"waiting": {"reason": reason} | ({"message": message} if message else {})}, pulled=pulled, **more)


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    end = {"exitCode": code, "reason": reason, "startedAt": now(), "finishedAt": now()}
    return {"terminated": end | ({"message": message} if message else {})}


def backs_off(last: dict[str, Any], restarts: int = 4) -> Container:
    return waits("CrashLoopBackOff", BACK_OFF, last=last, restarts=restarts, pulled=True)


def unstartable(behaviour: str) -> Iterator[tuple[Container, ...]]:
    """The states of each try of a kubelet to start a command that is not there: no process, and yet an exit code."""
    word = {"no-command": "StartError", "cannot-run": "ContainerCannotRun"}[behaviour]
    last: dict[str, Any] = {}
    for restarts in itertools.count():
        end = ended(128, word, NO_COMMAND)
        yield (
            waits("RunContainerError", NO_COMMAND, pulled=True, last=last, restarts=restarts),
            Container(end, last, restarts=restarts),
            waits("CrashLoopBackOff", BACK_OFF, pulled=True, last=end, restarts=restarts),
            waits("ContainerCreating", pulled=True, last=end, restarts=restarts),
        )
        last = end


def exits() -> Iterator[tuple[Container, ...]]:
    """The states of each try of a kubelet to run a process that ends at once: without a probe it is ready for a moment."""
    last: dict[str, Any] = {}
    for restarts in itertools.count():
        end = ended(7)
        tries = (runs(restarts=restarts, last=last), Container(end, last, restarts=restarts))
        # The first restart comes without a back-off.
        yield tries if restarts == 0 else (*tries, backs_off(end, restarts))
        last = end


def other(spec: dict[str, Any], behaviour: str) -> Container:
    """A container that is not the sandbox's, which behaves as its own variable says, or else as `behaviour`."""
    said = {one["name"]: one.get("value", "") for one in spec.get("env", [])}.get(VARIABLE, behaviour)
    match said:
        case "done":
            return Container(ended(0, "Completed"), ready=True)
        case "crash-loop":
            return backs_off(ended(1, message="no configuration"))
        case "image-pull":
            return waits("ImagePullBackOff", 'Back-off pulling image "missing": not found')
        case "never-ready":
            return runs(ready=False)
    return runs()


def status(pod: dict[str, Any], own: Container) -> dict[str, Any]:
    """The status of a pod; `own` is the state of the sandbox's container once the init containers are done."""
    spec, inits, blocked = pod["spec"], [], False
    for one in spec.get("initContainers", []):
        sidecar = one.get("restartPolicy") == "Always"
        made = waits("PodInitializing") if blocked else other(one, RUN if sidecar else DONE)
        blocked = blocked or ("running" not in made.state if sidecar else not made.ready)
        inits.append(made.status(one))
    mains = [own if is_own(one) else other(one, RUN) for one in spec["containers"]]
    waiting = waits("PodInitializing")
    containers = [
        (waiting if blocked else made).status(one) for made, one in zip(mains, spec["containers"], strict=True)
    ]
    unready = [one["name"] for one in (*inits, *containers) if not one["ready"]]
    all_ready = {"reason": "ContainersNotReady", "message": f"containers with unready status: [{' '.join(unready)}]"}
    gates = _closed_gates(pod)
    closed = {"reason": "ReadinessGatesNotReady", "message": ", ".join(gates)}
    return {
        "phase": "Pending" if blocked or not own.pulled else "Running",
        "conditions": [
            condition("PodReadyToStartContainers"),
            condition("Initialized", not blocked),
            condition("ContainersReady", not unready, **all_ready),
            condition("Ready", not unready and not gates, **(all_ready if unready else closed)),
        ],
        "initContainerStatuses": inits,
        "containerStatuses": containers,
        "startTime": now(),
        "podIP": "10.0.0.1",
        "podIPs": [{"ip": "10.0.0.1"}],
        "hostIP": "10.0.0.2",
    }


@dataclass(frozen=True)
class End:
    """How a kubelet ends a pod: its reason, its message and whether the pod ran."""

    reason: str
    message: str
    ran: bool = True


ENDS = {
    "evicted": End("Evicted", "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. "),
    "preempted": End("Preempting", "Preempted in order to admit critical pod"),
    "node-shutdown": End("Terminated", "Pod was terminated in response to imminent node shutdown."),
    "rejected": End(
        "OutOfcpu",
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 100, used: 1, capacity: 1",
        False,
    ),
}


def failed(pod: dict[str, Any], end: End) -> dict[str, Any]:
    """The status of a pod that the kubelet has ended, or never let in: that one has no more than its phase."""
    said = {"phase": "Failed", "reason": end.reason, "message": end.message}
    if not end.ran:
        return said | {"startTime": now()}
    made = status(pod, Container(ended(137)))
    unready = {"reason": "PodFailed", "message": None}
    conditions = [condition(one, False, **unready) for one in ("Ready", "ContainersReady")]
    target = condition("DisruptionTarget") | {"reason": "TerminationByKubelet", "message": end.message}
    return made | said | {"conditions": [*conditions, target]}


def condition(kind: str, holds: bool = True, **why: str | None) -> dict[str, Any]:
    """A condition; `why` it does not hold."""
    empty = {"reason": None, "message": None}
    return {"type": kind, "status": str(holds), "lastTransitionTime": now()} | (empty if holds else why)


def gate_states(pod: dict[str, Any]) -> dict[str, str | None]:
    """The status of the condition of each readiness gate; None where there is no such condition."""
    conditions = {one["type"]: one["status"] for one in pod.get("status", {}).get("conditions", [])}
    gates = [one["conditionType"] for one in pod["spec"].get("readinessGates", [])]
    return {one: conditions.get(one) for one in gates}


def _closed_gates(pod: dict[str, Any]) -> list[str]:
    """The words of kubelet/status/generate.go for each gate that is not passed."""
    return [
        f'corresponding condition of pod readiness gate "{gate}" does not exist.'
        if state is None
        else f'the status of pod readiness gate "{gate}" is not "True", but {state}'
        for gate, state in gate_states(pod).items()
        if state != "True"
    ]
