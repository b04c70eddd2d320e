"""The pods of the service itself, run as processes of this machine: what a kubelet and an image do, without the image.

A container's command is that of this environment. It runs as the image's user, with a read-only file system, and with the
environment and the files that the pod and its Secrets say. Its ports are free ones of this machine, and its disk is a folder.
Probes ask for real. The pods of sandboxes are the simulated node's.
"""

import asyncio
import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp

from scripts import image_run
from tests.kubernetes import kubelet, prepared, watching
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.node import NAME, STRATEGIC
from tests.support.ports import free_port
from tests.support.service import without_coverage

USER = "1001:1001"
"""Of the Dockerfile."""
BIN = Path(sys.executable).parent
DATA = "/data"
"""Where the image has its data. The machine has no such folder, so that variables name another."""
PROBED_EVERY = 0.2


class Processes:
    """Runs each pod of the node that is no sandbox's. Use as an async context manager, by root."""

    def __init__(self, cluster: Cluster, announce: Callable[[str], None] = lambda _line: None) -> None:
        """`announce` is told of each process: its ports and its log."""
        self._cluster = cluster
        self._announce = announce
        self._pods: dict[str, asyncio.Task[None]] = {}
        self._deleted: dict[str, asyncio.Event] = {}
        self.ports: dict[tuple[str, str], dict[int, int]] = {}
        """The ports of this machine, by namespace and name of a pod that runs, and by the port of the container."""
        self.folder = Path(tempfile.mkdtemp(prefix="pods-"))
        self.folder.chmod(0o755)

    async def __aenter__(self) -> Self:
        self._session = self._cluster.session("node-token-for-tests")
        self._kubelet = prepared.Kubelet(self._session, self.folder)
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [self._watching, *self._pods.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await watching.close(self._session)
        shutil.rmtree(self.folder)

    def log(self, namespace: str, name: str) -> str:
        """What the containers of a pod have printed."""
        return (self.folder / f"{namespace}-{name}.log").read_text()

    async def _watch(self) -> None:
        selector = f"fieldSelector=spec.nodeName%3D{NAME}"
        async for kind, value in watching.follow(self._session, "/api/v1/pods", selector):
            for pod in value if kind == watching.LISTED else [value]:
                self._see(pod, gone=kind == "DELETED")

    def _see(self, pod: dict[str, Any], gone: bool) -> None:
        uid = pod["metadata"]["uid"]
        if kubelet.is_sandbox(pod) or kubelet.counts(pod):
            return
        if uid not in self._pods and pod.get("status", {}).get("phase") == "Pending":
            self._deleted[uid] = asyncio.Event()
            self._pods[uid] = asyncio.create_task(self._run(pod, self._deleted[uid]))
        if uid in self._deleted and (gone or "deletionTimestamp" in pod["metadata"]):
            self._deleted[uid].set()

    async def _run(self, pod: dict[str, Any], deleted: asyncio.Event) -> None:
        """Runs a pod, and removes it once it is deleted."""
        meta = pod["metadata"]
        try:
            with contextlib.suppress(prepared.Removed):
                await self._contain(pod, deleted)
        finally:
            self.ports.pop((meta["namespace"], meta["name"]), None)
        await deleted.wait()
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        await self._kubelet.call("DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}})

    async def _contain(self, pod: dict[str, Any], deleted: asyncio.Event) -> None:
        """Runs the containers of a pod to their end, or until the pod is deleted."""
        spec = pod["spec"]
        made = await self._kubelet.made(pod, deleted)
        code = 0
        for container in spec.get("initContainers", []):
            code = code or await self._to_its_end(pod, container, made, deleted)
        (main,) = spec["containers"]
        if code == 0 and spec["restartPolicy"] == "Never":
            code = await self._to_its_end(pod, main, made, deleted)
        elif code == 0:
            while not deleted.is_set():
                code = await self._while_it_serves(pod, main, made, deleted)
        if not deleted.is_set():
            state = {"terminated": {"exitCode": code, "reason": "Completed" if code == 0 else "Error"}}
            await self._report(pod, "Succeeded" if code == 0 else "Failed", state, ready=False)

    async def _to_its_end(
        self, pod: dict[str, Any], container: dict[str, Any], made: prepared.Made, deleted: asyncio.Event
    ) -> int:
        """Returns the exit code of a container that ends by itself."""
        process = await self._start(pod, container, made)
        try:
            while process.poll() is None and not deleted.is_set():
                await asyncio.sleep(0.05)
        finally:
            process.kill()
            process.wait()
        return process.returncode

    async def _while_it_serves(
        self, pod: dict[str, Any], container: dict[str, Any], made: prepared.Made, deleted: asyncio.Event
    ) -> int:
        """Reports a container as ready while its probes say so, until it ends or the pod is deleted. Returns its exit code.

        It is then started again, as a kubelet does.
        """
        process = await self._start(pod, container, made)
        meta = pod["metadata"]
        was: bool | None = None
        try:
            while process.poll() is None and not deleted.is_set():
                ports = self.ports[meta["namespace"], meta["name"]]
                ready = all([await asyncio.to_thread(passes, container, one, ports) for one in PROBES])
                if ready is not was:
                    running = {"running": {"startedAt": kubelet.now()}}
                    await self._report(pod, "Running", running, ready=ready)
                    was = ready
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(deleted.wait(), PROBED_EVERY)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                return await asyncio.to_thread(process.wait, pod["spec"]["terminationGracePeriodSeconds"])
        finally:
            process.kill()
            process.wait()
        return process.returncode

    async def _start(
        self, pod: dict[str, Any], container: dict[str, Any], made: prepared.Made
    ) -> "subprocess.Popen[bytes]":
        meta = pod["metadata"]
        ports = {one["containerPort"]: free_port() for one in container.get("ports", [])}
        self.ports[meta["namespace"], meta["name"]] = ports
        mounts = {one["mountPath"]: made.volumes[one["name"]] for one in container["volumeMounts"]}
        secrets = {path.replace("/var/run/", "/run/"): one for path, one in mounts.items() if "/run/secrets/" in path}
        host, _, port = self._cluster.url.rpartition("/")[2].partition(":")
        env = {
            **{name: value for name, value in without_coverage().items() if not name.startswith("SANDBOX_")},
            "HOME": DATA,
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": port,
            **made.variables[container["name"]],
        }
        env |= {name: str(mounts[DATA]) for name in ("HOME", "SANDBOX_DATA_DIR") if env.get(name) == DATA}
        for name in ("SANDBOX_LISTEN", "SANDBOX_METRICS_LISTEN"):
            if name in env:
                env[name] = self._reachable(env[name], ports, meta["namespace"])
        words = [*image_run.command(USER, secrets), str(BIN / "sandbox-server"), *container.get("args", [])]
        path = self.folder / f"{meta['namespace']}-{meta['name']}.log"
        places = "".join(f" port {one} is 127.0.0.1:{other}," for one, other in ports.items())
        self._announce(f"pod {meta['namespace']}/{meta['name']} runs {container['name']}:{places} log {path}")
        with path.open("ab") as log:
            return subprocess.Popen(words, env=env, cwd=mounts[DATA], stdout=log, stderr=log, start_new_session=True)

    def _reachable(self, address: str, own: Mapping[int, int], namespace: str) -> str:
        """The address with the port of this machine: of the container itself, or of a pod behind a Service."""
        host, _, port = address.rpartition(":")
        if int(port) in own:
            return f"{host}:{own[int(port)]}"
        behind = (ports for (there, _), ports in self.ports.items() if there == namespace and ports)
        found = next(behind, None)
        return address if found is None else f"127.0.0.1:{found[int(port)]}"

    async def _report(self, pod: dict[str, Any], phase: str, state: dict[str, Any], *, ready: bool) -> None:
        meta = pod["metadata"]
        told = [kubelet.Container(state, ready=ready).status(one) for one in pod["spec"]["containers"]]
        conditions = [kubelet.condition(one, ready) for one in ("Ready", "ContainersReady")]
        status = {
            "phase": phase,
            "conditions": [kubelet.condition("Initialized"), *conditions],
            "containerStatuses": told,
            "startTime": kubelet.now(),
            "podIP": "127.0.0.1",
            "podIPs": [{"ip": "127.0.0.1"}],
        }
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        while True:
            with contextlib.suppress(OSError, aiohttp.ClientError):
                await self._kubelet.call("PATCH", path, {"metadata": {"uid": meta["uid"]}, "status": status}, STRATEGIC)
                return
            await asyncio.sleep(PROBED_EVERY)


PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def passes(container: dict[str, Any], probe: str, ports: Mapping[int, int]) -> bool:
    """Whether a probe of a container passes, at its port of this machine."""
    asked = container[probe]["httpGet"]
    named = {one["name"]: one["containerPort"] for one in container["ports"]}
    port = ports[named[asked["port"]]]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{asked['path']}", timeout=5) as answer:
            return bool(answer.status < 400)
    except OSError:
        return False
