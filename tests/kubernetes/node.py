"""A simulated node: it is to the control plane what a kubelet is, and runs nothing.

What becomes of a pod is said by its annotation `simulated-node/behaviour`, or by the test through `behave`.
"""

import asyncio
import contextlib
import datetime
import json
import ssl
from typing import Any, Self

import aiohttp

from tests.kubernetes.cluster import Cluster

NAME = "simulated"
BEHAVIOUR = "simulated-node/behaviour"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Node:
    """Use as an async context manager. Behaviours: run, image-pull, image-invalid, crash-loop, out-of-memory, never-ready,
    slow, stuck (does not end)."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._behaviours: dict[tuple[str, str], str] = {}
        self._pods: dict[str, dict[str, Any]] = {}
        self._started: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._busy: set[asyncio.Task[None]] = set()
        self.alive = True
        self.slow_by = 2.0

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context(cafile=str(self._cluster.ca))
        self._session = aiohttp.ClientSession(
            base_url=self._cluster.url,
            connector=aiohttp.TCPConnector(ssl=context, limit=32),
            headers={"Authorization": "Bearer node-token-for-tests"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
        )
        await self._register()
        self._tasks = [asyncio.create_task(one) for one in (self._renew(), self._watch())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (*self._tasks, *self._busy):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._busy, return_exceptions=True)
        await self._session.close()
        # As aiohttp advises: TLS connections end a moment after their session.
        await asyncio.sleep(0.25)

    def behave(self, namespace: str, pod: str, behaviour: str) -> None:
        """From now on that pod, and those of its name to come, behave so."""
        self._behaviours[namespace, pod] = behaviour
        for uid, known in list(self._pods.items()):
            if (known["metadata"]["namespace"], known["metadata"]["name"]) == (namespace, pod):
                self._started.pop(uid, None)
                self._see(known)

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
            "lastHeartbeatTime": _now(),
            "lastTransitionTime": _now(),
        }
        status = {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}
        await self._call("PATCH", f"/api/v1/nodes/{NAME}/status", {"status": status}, STRATEGIC)

    async def _renew(self) -> None:
        """Renews the lease every two seconds while the node is `alive`, and reports itself ready again after that."""
        lost = True
        while True:
            with contextlib.suppress(OSError, aiohttp.ClientError):
                if self.alive:
                    if lost:
                        await self._report()
                        for known in list(self._pods.values()):
                            self._started.pop(known["metadata"]["uid"], None)
                            self._see(known)
                    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                    spec = {"holderIdentity": NAME, "leaseDurationSeconds": 8, "renewTime": now}
                    lease = {"metadata": {"name": NAME}, "spec": spec}
                    found = await self._call("PATCH", f"{LEASE}/{NAME}", lease, MERGE)
                    if found.get("code") == 404:
                        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"} | lease
                        await self._call("POST", LEASE, body)
                lost = not self.alive
            await asyncio.sleep(1)

    async def _watch(self) -> None:
        selector = f"fieldSelector=spec.nodeName%3D{NAME}"
        while True:
            with contextlib.suppress(OSError, aiohttp.ClientError, ValueError):
                listed = await self._call("GET", f"/api/v1/pods?{selector}")
                self._pods = {}
                for pod in listed["items"]:
                    self._see(pod)
                version = listed["metadata"]["resourceVersion"]
                async with self._session.get(f"/api/v1/pods?{selector}&watch=true&resourceVersion={version}") as stream:
                    buffer = b""
                    async for chunk in stream.content.iter_any():
                        *lines, buffer = (buffer + chunk).split(b"\n")
                        for line in lines:
                            event = json.loads(line)
                            if event["type"] == "DELETED":
                                self._pods.pop(event["object"]["metadata"]["uid"], None)
                            elif event["type"] == "ERROR":
                                raise OSError("watch")
                            else:
                                self._see(event["object"])
            await asyncio.sleep(0.2)

    def _see(self, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        self._pods[uid] = pod
        deleted = "deletionTimestamp" in pod["metadata"]
        state = "deleting" if deleted else "running"
        if not self.alive or self._started.get(uid) == state:
            return
        self._started[uid] = state
        task = asyncio.create_task(self._end(pod) if deleted else self._run(pod))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    def _behaviour(self, pod: dict[str, Any]) -> str:
        meta = pod["metadata"]
        annotated = meta.get("annotations", {}).get(BEHAVIOUR, "run")
        return self._behaviours.get((meta["namespace"], meta["name"]), annotated)

    async def _end(self, pod: dict[str, Any]) -> None:
        if self._behaviour(pod) == "stuck":
            self._started.pop(pod["metadata"]["uid"], None)
            return
        meta = pod["metadata"]
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}
        await self._call("DELETE", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", body)

    async def _run(self, pod: dict[str, Any]) -> None:
        behaviour = self._behaviour(pod)
        if behaviour == "slow":
            await self._status(pod, {"waiting": {"reason": "ContainerCreating"}}, phase="Pending")
            await asyncio.sleep(self.slow_by)
        running = {"running": {"startedAt": _now()}}
        match behaviour:
            case "image-pull":
                state = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "missing": not found'}
                await self._status(pod, {"waiting": state}, phase="Pending")
            case "image-invalid":
                state = {"reason": "InvalidImageName", "message": "couldn't parse image name"}
                await self._status(pod, {"waiting": state}, phase="Pending")
            case "crash-loop" | "out-of-memory":
                ended = {"exitCode": 3, "reason": "Error", "startedAt": _now(), "finishedAt": _now()}
                if behaviour == "out-of-memory":
                    ended |= {"exitCode": 137, "reason": "OOMKilled"}
                waiting = {
                    "waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}
                }
                await self._status(pod, waiting, last={"terminated": ended}, restarts=4)
            case "never-ready":
                await self._status(pod, running, started=True)
            case _:
                await self._status(pod, running, ready=True, started=True)

    async def _status(
        self,
        pod: dict[str, Any],
        state: dict[str, Any],
        *,
        last: dict[str, Any] | None = None,
        ready: bool = False,
        started: bool = False,
        restarts: int = 0,
        phase: str = "Running",
    ) -> None:
        """Writes a pod's status as a kubelet does."""
        meta, value = pod["metadata"], "True" if ready else "False"
        container = pod["spec"]["containers"][0]
        conditions = [
            {"type": kind, "status": status, "lastTransitionTime": _now()}
            for kind, status in (
                ("PodReadyToStartContainers", "True"),
                ("Initialized", "True"),
                ("ContainersReady", value),
                ("Ready", value),
            )
        ]
        known = {
            "name": container["name"],
            "image": container["image"],
            "imageID": "simulated" if started or last else "",
            "ready": ready,
            "started": started,
            "restartCount": restarts,
            "state": state,
            "lastState": last or {},
        }
        status = {
            "phase": phase,
            "conditions": conditions,
            "containerStatuses": [known],
            "startTime": _now(),
            "podIP": "10.0.0.1",
            "podIPs": [{"ip": "10.0.0.1"}],
            "hostIP": "10.0.0.2",
        }
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        await self._call("PATCH", path, {"metadata": {"uid": meta["uid"]}, "status": status}, STRATEGIC)
