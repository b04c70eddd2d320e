"""A simulated node: it is to the control plane what a kubelet is. It runs nothing, unless it is given `Containers`.

What becomes of a pod is said by the test through `behave`; else by the variable BEHAVIOUR of its environment, which is
read from its Secret when it starts, as a process would; else by its annotation `simulated-node/behaviour`. Containers
beside the sandbox's behave as their own variable BEHAVIOUR says.
"""

import asyncio
import base64
import contextlib
import datetime
import json
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import aiohttp
from sandbox_server.engines.kubernetes import pods

from tests.kubernetes import kubelet, watching
from tests.kubernetes.allocations import Allocations
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.containers import Containers
from tests.kubernetes.workload import Workload
from tests.support import counting_pod

NAME = "simulated"
BEHAVIOUR = "simulated-node/behaviour"
WAITING = {
    "pull-fails-once": ("ErrImagePull", 'failed to pull and unpack image "missing": not found'),
    "no-cache": ("CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition"),
    "image-pull": ("ImagePullBackOff", 'Back-off pulling image "missing": not found'),
    "image-invalid": ("InvalidImageName", "couldn't parse image name"),
    "missing": ("CreateContainerConfigError", "the Secret of its environment is not there"),
}
UNMOUNTED = 'MountVolume.SetUp failed for volume "simulated": the device is busy'
UNHEALTHY = "Readiness probe failed: HTTP probe failed with statuscode: 404"
HARMLESS = 'kubelet does not have ClusterDNS IP configured and cannot create Pod using "ClusterFirst" policy.'
STATE = 0.3
"""Seconds that a container which ends at once is in each of its states."""
CLEANING_UP = 0.4
"""Seconds that a kubelet takes to end a pod, and to clean up after it before the pod may go."""
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


class Node:
    """Use as an async context manager. Behaviours: run, no-mount, pull-fails-once, no-cache, image-pull,
    image-invalid, crash-loop, out-of-memory, never-ready, exits, no-command, cannot-run, slow, shell (ignores SIGTERM
    where it is process 1), stuck (does not end), and those of `kubelet.ENDS`.

    With `containers` a sandbox that is to run has a real process, which its pod's status follows.
    """

    def __init__(self, cluster: Cluster, containers: Containers | None = None) -> None:
        self._cluster = cluster
        self._containers = containers
        self._workloads: dict[str, Workload] = {}
        self._behaviours: dict[tuple[str, str], str] = {}
        self._pods: dict[str, dict[str, Any]] = {}
        self._started: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._busy: set[asyncio.Task[None]] = set()
        self.alive = True
        self.slow_by = 2.0
        self.allocations = Allocations()

    async def __aenter__(self) -> Self:
        self._session = self._cluster.session("node-token-for-tests")
        await self._register()
        self._tasks = [asyncio.create_task(one) for one in (self._renew(), self._watch())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (*self._tasks, *self._busy):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._busy, return_exceptions=True)
        for uid in list(self._workloads):
            await self._forget(uid)
        await watching.close(self._session)

    def behave(self, namespace: str, pod: str, behaviour: str) -> None:
        """From now on that pod, and those of its name to come, behave so; as they are told otherwise, if it is empty."""
        self._behaviours[namespace, pod] = behaviour
        for uid, known in list(self._pods.items()):
            if (known["metadata"]["namespace"], known["metadata"]["name"]) == (namespace, pod):
                self._started.pop(uid, None)
                self._see(known)

    async def end_container(self, namespace: str, pod: str) -> None:
        """Has the process of a pod end. It is started again."""
        (uid,) = (
            uid
            for uid, one in self._pods.items()
            if (one["metadata"]["namespace"], one["metadata"]["name"]) == (namespace, pod)
        )
        await self._workloads[uid].end()

    async def _call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        data = None if body is None else json.dumps(body)
        async with self._session.request(method, path, data=data, headers={"Content-Type": kind}) as answer:
            text = await answer.text()
            if answer.status >= 400 and answer.status not in (404, 409):
                raise OSError(f"{method} {path}: {answer.status} {text[:500]}")
            return json.loads(text)

    async def _register(self) -> None:
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NAME, "labels": {"kubernetes.io/hostname": NAME, "kubernetes.io/os": "linux"}},
        }
        await self._call("POST", "/api/v1/nodes", node)
        await self._report()

    async def _report(self) -> None:
        amounts = {"cpu": "4000", "memory": "16Ti", "pods": "5000", "ephemeral-storage": "1Ti"}
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "simulated",
            "lastHeartbeatTime": kubelet.now(),
            "lastTransitionTime": kubelet.now(),
        }
        status: dict[str, Any] = {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}
        if self._containers is not None:
            status["addresses"] = [{"type": "InternalIP", "address": "127.0.0.1"}]
            status["daemonEndpoints"] = {"kubeletEndpoint": {"Port": self._containers.port}}
        await self._call("PATCH", f"/api/v1/nodes/{NAME}/status", {"status": status}, STRATEGIC)

    async def _renew(self) -> None:
        """Renews the lease and reports itself every second while it is `alive`."""
        while True:
            with contextlib.suppress(OSError, aiohttp.ClientError):
                if self.alive:
                    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                    spec = {"holderIdentity": NAME, "leaseDurationSeconds": 8, "renewTime": now}
                    lease = {"metadata": {"name": NAME}, "spec": spec}
                    found = await self._call("PATCH", f"{LEASE}/{NAME}", lease, MERGE)
                    if found.get("code") == 404:
                        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"} | lease
                        await self._call("POST", LEASE, body)
                    await self._report()
                    for known in list(self._pods.values()):
                        self._see(known)
            await asyncio.sleep(1)

    async def _watch(self) -> None:
        async for kind, value in watching.follow(
            self._session, "/api/v1/pods", f"fieldSelector=spec.nodeName%3D{NAME}"
        ):
            if kind == watching.LISTED:
                self._pods = {}
                for pod in value:
                    self._see(pod)
            elif kind == "DELETED":
                self._pods.pop(value["metadata"]["uid"], None)
                self._started.pop(value["metadata"]["uid"], None)
                self.allocations.forget(value["metadata"]["uid"])
                await self._forget(value["metadata"]["uid"])
            else:
                self._see(value)

    def _see(self, pod: dict[str, Any]) -> None:
        if not (kubelet.is_sandbox(pod) or kubelet.counts(pod)):
            # `Processes` may run it.
            return
        uid = pod["metadata"]["uid"]
        self._pods[uid] = pod
        deleted = "deletionTimestamp" in pod["metadata"]
        state = _state(pod)
        if not self.alive:
            return
        if self.allocations.look(pod, self._pods.values()) and uid in self._started:
            self._spawn(self._show(pod))
        if self._started.get(uid) == state and not _called_lost(pod):
            return
        self._started[uid] = state
        self._spawn(self._do(pod, deleted))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def _show(self, pod: dict[str, Any]) -> None:
        """Writes what a pod has been given. What cannot be written now is written with the pod's next state."""
        with contextlib.suppress(OSError, aiohttp.ClientError):
            await self._write(pod, {"containerStatuses": pod.get("status", {}).get("containerStatuses", [])})

    async def _do(self, pod: dict[str, Any], deleted: bool) -> None:
        """Until the API server has taken it, or the pod's state is another."""
        state = _state(pod)
        while self._started.get(pod["metadata"]["uid"]) == state:
            try:
                await (self._end(pod) if deleted else self._run(pod))
                return
            except (OSError, aiohttp.ClientError):
                await asyncio.sleep(0.2)

    async def _behaviour(self, pod: dict[str, Any]) -> str:
        """What it is to do; `missing` where its environment is not there. An image `...:missing` cannot be pulled."""
        meta = pod["metadata"]
        told = self._behaviours.get((meta["namespace"], meta["name"]))
        if told:
            return told
        if kubelet.own(pod)["image"].endswith(":missing"):
            return "image-pull"
        env = await self._env(pod)
        if env is None:
            return "missing"
        return env.get(kubelet.VARIABLE) or str(meta.get("annotations", {}).get(BEHAVIOUR, "run"))

    async def _env(self, pod: dict[str, Any]) -> dict[str, str] | None:
        """The environment of its container; None if a Secret of it is not there."""
        env: dict[str, str] = {}
        for source in kubelet.own(pod).get("envFrom", []):
            path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/secrets/{source['secretRef']['name']}"
            secret = await self._call("GET", path)
            if secret["kind"] != "Secret":
                return None
            env |= {name: base64.b64decode(value).decode() for name, value in secret.get("data", {}).items()}
        return env

    async def _last_words(self, pod: dict[str, Any]) -> str:
        """What its process says last when it crashes, where its log is asked for."""
        if kubelet.own(pod).get("terminationMessagePolicy") != "FallbackToLogsOnError":
            return ""
        token = (await self._env(pod) or {}).get("TOKEN", "")
        return f"cannot connect with {token}\n"

    async def _end(self, pod: dict[str, Any]) -> None:
        meta = pod["metadata"]
        behaviour = self._behaviours.get((meta["namespace"], meta["name"]))
        if behaviour == "stuck":
            return
        workload = self._workloads.get(meta["uid"])
        if workload is not None:
            await workload.stop(meta["deletionGracePeriodSeconds"])
        if behaviour == "shell" and not pod["spec"].get("shareProcessNamespace"):
            await asyncio.sleep(pod["spec"]["terminationGracePeriodSeconds"])
        if pod.get("status", {}).get("phase") == "Failed":
            await asyncio.sleep(CLEANING_UP)
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}
        await self._call("DELETE", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", body)

    async def _count(self, pod: dict[str, Any]) -> None:
        """Runs to its end a pod that counts what was restored. Raises OSError while its claim is not bound."""
        if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            return
        claim = pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
        disk = await self._disk(pod["metadata"]["namespace"], claim)
        (container,) = pod["spec"]["containers"]
        await self._write(pod, {"phase": "Running", "containerStatuses": [kubelet.runs().status(container)]})
        end = await asyncio.to_thread(counting_pod.ended, pod, disk)
        made = kubelet.ended(end["exitCode"], end["reason"], end["message"])
        status = {"phase": counting_pod.phase(end), "containerStatuses": [kubelet.Container(made).status(container)]}
        await self._write(pod, status)

    async def _run(self, pod: dict[str, Any]) -> None:
        if kubelet.counts(pod):
            await self._count(pod)
            return
        behaviour = await self._behaviour(pod)
        if behaviour != "run":
            await self._forget(pod["metadata"]["uid"])
        if behaviour == "slow":
            await self._status(pod, kubelet.waits("ContainerCreating"))
            await asyncio.sleep(self.slow_by)
        match behaviour:
            case "no-mount":
                await self._complain(pod, "FailedMount", UNMOUNTED)
                # What a kubelet of a cluster without a DNS says of every pod.
                await self._complain(pod, "MissingClusterDNS", HARMLESS)
            case "pull-fails-once" | "no-cache" | "image-pull" | "image-invalid" | "missing":
                word, message = WAITING[behaviour]
                await self._status(pod, kubelet.waits(word, message))
                if behaviour == "missing":
                    raise OSError(message)
            case "crash-loop":
                await self._status(pod, kubelet.backs_off(kubelet.ended(3, message=await self._last_words(pod))))
            case "out-of-memory":
                end = kubelet.ended(137, "OOMKilled", await self._last_words(pod))
                await self._status(pod, kubelet.backs_off(end))
            case "no-command" | "cannot-run":
                await self._repeat(pod, kubelet.unstartable(behaviour))
            case "exits":
                await self._repeat(pod, kubelet.exits())
            case "evicted" | "preempted" | "node-shutdown" | "rejected":
                await asyncio.sleep(CLEANING_UP)
                await self._write(pod, kubelet.failed(pod, kubelet.ENDS[behaviour]))
            case "never-ready":
                await self._status(pod, kubelet.runs(ready=False))
                await self._complain(pod, "Unhealthy", UNHEALTHY, kubelet.CONTAINER)
            case "run" if self._containers is not None:
                await self._work(pod, self._containers)
            case _:
                await self._status(pod, kubelet.runs())

    async def _work(self, pod: dict[str, Any], containers: Containers) -> None:
        """Gives the pod its process, or shows again what has become of it."""
        uid = pod["metadata"]["uid"]
        workload = self._workloads.get(uid)
        if workload is None:
            env = {one["name"]: one.get("value", "").replace("$$", "$") for one in kubelet.own(pod).get("env", [])}
            env = (await self._env(pod) or {}) | env
            home = await self.home(pod)

            async def report(state: kubelet.Container) -> None:
                await self._status(self._pods.get(uid, pod), state)

            self._workloads[uid] = Workload(containers, pod, env, home, report)
        elif workload.state is not None:
            await self._status(pod, workload.state)

    async def home(self, pod: dict[str, Any]) -> Path:
        """The folder of this machine that is the sandbox's home. Raises OSError while its claim is not bound."""
        namespace = pod["metadata"]["namespace"]
        mounts = [one for one in kubelet.own(pod)["volumeMounts"] if one["mountPath"] == pods.HOME]
        if not mounts:
            # It is in the container itself, and goes with the pod.
            return self._cluster.folder / "homes" / str(pod["metadata"]["uid"])
        (mount,) = mounts
        (volume,) = (one for one in pod["spec"]["volumes"] if one["name"] == mount["name"])
        disk = await self._disk(namespace, volume["persistentVolumeClaim"]["claimName"])
        return Path(disk, mount.get("subPath", ""))

    async def _disk(self, namespace: str, name: str) -> Path:
        """The folder of this machine that is the disk of a claim. Raises OSError while the claim is not bound."""
        claim = await self._call("GET", f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}")
        bound = claim.get("spec", {}).get("volumeName")
        if not bound:
            raise OSError(f"the claim {name} is not bound")
        disk = await self._call("GET", f"/api/v1/persistentvolumes/{bound}")
        spec = disk["spec"]
        source = spec["csi"]["volumeAttributes"] if "csi" in spec else spec["hostPath"]
        return Path(source["path"])

    async def _forget(self, uid: str) -> None:
        """Kills the process of a pod that is gone, or is no longer to run."""
        workload = self._workloads.pop(uid, None)
        if workload is not None:
            await workload.remove()

    async def _repeat(self, pod: dict[str, Any], restarts: Iterable[Sequence[kubelet.Container]]) -> None:
        """Writes the states of each restart in turn, until the pod goes or is to behave otherwise."""
        meta = pod["metadata"]
        called = self._behaviours.get((meta["namespace"], meta["name"]))

        def holds() -> bool:
            known = self._pods.get(meta["uid"])
            same = self._behaviours.get((meta["namespace"], meta["name"])) == called
            return same and known is not None and "deletionTimestamp" not in known["metadata"]

        for states in restarts:
            for one in states:
                if not holds():
                    return
                await self._status(pod, one)
                await asyncio.sleep(STATE)

    async def _complain(self, pod: dict[str, Any], reason: str, message: str, container: str = "") -> None:
        """Writes a warning about a pod, or a container of it, as a kubelet does."""
        meta = pod["metadata"]
        about = {"kind": "Pod", "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]}
        if container:
            about["fieldPath"] = f"spec.containers{{{container}}}"
        event = {
            "metadata": {"generateName": f"{meta['name']}."},
            "involvedObject": about | {"apiVersion": "v1"},
            "type": "Warning",
            "reason": reason,
            "message": message,
            # As client-go/tools/events writes them, and by a clock that is an hour behind.
            "reportingComponent": "kubelet",
            "reportingInstance": NAME,
            "action": "Starting",
            "eventTime": kubelet.event_time(behind=3600),
        }
        await self._call("POST", f"/api/v1/namespaces/{meta['namespace']}/events", event)

    async def _status(self, pod: dict[str, Any], own: kubelet.Container) -> None:
        """Writes a pod's status as a kubelet does; `own` is the state of the sandbox's container."""
        await self._write(pod, kubelet.status(pod, own))

    async def _write(self, pod: dict[str, Any], status: dict[str, Any]) -> None:
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        body = {"metadata": {"uid": meta["uid"]}, "status": self.allocations.shown(pod, status)}
        await self._call("PATCH", path, body, STRATEGIC)


def _state(pod: dict[str, Any]) -> str:
    """What a kubelet acts on: whether the pod has to go, and the readiness gates that others set."""
    return "deleting" if "deletionTimestamp" in pod["metadata"] else f"running {kubelet.gate_states(pod)}"


def _called_lost(pod: dict[str, Any]) -> bool:
    """Whether the node controller has withdrawn Ready from a pod that runs: a kubelet puts that right when it can."""
    status = pod.get("status", {})
    ready = {one["type"]: one["status"] for one in status.get("conditions", [])}.get("Ready")
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    passed = {*kubelet.gate_states(pod).values()} <= {"True"}
    return ready != "True" and passed and bool(containers) and all(one["ready"] for one in containers)
