"""What a kubelet does of an expansion: it grows the file system of a volume that a pod on its node uses.

As pkg/volume/util/operationexecutor/node_expander.go does it. The rest of a kubelet is in `node.Node`.
"""

import asyncio
import contextlib
from typing import Any, Self

import aiohttp
import grpc

from tests.kubernetes import watching
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.csi.driver import NAME as DRIVER
from tests.kubernetes.csi.driver import Driver
from tests.kubernetes.node import MERGE, NAME

PENDING, GROWING, INFEASIBLE = "NodeResizePending", "NodeResizeInProgress", "NodeResizeInfeasible"
CONDITIONS = {"Resizing", "FileSystemResizePending", "ControllerResizeError", "NodeResizeError"}
"""Those that an expansion has; they end with it."""
AGAIN = 0.2
"""Seconds until a volume that no pod uses yet is looked at again."""
FINAL = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.NOT_FOUND}
"""What a kubelet takes as an answer that does not change."""


class Growth:
    """Use as an async context manager, while there is a driver."""

    def __init__(self, cluster: Cluster, driver: Driver) -> None:
        self._cluster = cluster
        self._driver = driver
        self._growing: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        self._session = self._cluster.session("node-token-for-tests")
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [self._watching, *self._growing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await watching.close(self._session)

    async def _watch(self) -> None:
        async for kind, value in watching.follow(self._session, "/api/v1/persistentvolumeclaims"):
            for claim in value if kind == watching.LISTED else [value]:
                uid = claim["metadata"]["uid"]
                if _state(claim) == PENDING and (uid not in self._growing or self._growing[uid].done()):
                    self._growing[uid] = asyncio.create_task(self._grow(claim))

    async def _grow(self, claim: dict[str, Any]) -> None:
        """Grows the volume of a claim once a pod uses it, until the API server has taken it."""
        meta = claim["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/persistentvolumeclaims/{meta['name']}"
        while True:
            with contextlib.suppress(OSError, aiohttp.ClientError):
                claim = await self._call("GET", path)
                if _state(claim) not in (PENDING, GROWING) or claim["metadata"]["uid"] != meta["uid"]:
                    return
                if await self._used(meta["namespace"], meta["name"]):
                    await self._expand(path, claim)
            await asyncio.sleep(AGAIN)

    async def _used(self, namespace: str, claim: str) -> bool:
        """Whether a pod on the node has the claim mounted."""
        pods = await self._call("GET", f"/api/v1/namespaces/{namespace}/pods?fieldSelector=spec.nodeName%3D{NAME}")
        return any(
            volume.get("persistentVolumeClaim", {}).get("claimName") == claim
            for pod in pods["items"]
            if pod["status"].get("phase") in ("Pending", "Running")
            for volume in pod["spec"]["volumes"]
        )

    async def _expand(self, path: str, claim: dict[str, Any]) -> None:
        volume = await self._call("GET", f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
        source = volume["spec"]["csi"]
        assert source["driver"] == DRIVER
        await self._mark(path, claim, GROWING)
        request = self._driver.pb.NodeExpandVolumeRequest(
            volume_id=source["volumeHandle"], volume_path=source["volumeAttributes"]["path"]
        )
        try:
            await asyncio.to_thread(self._driver.call, "Node", "NodeExpandVolume", request)
        except grpc.RpcError as error:
            if error.code() in FINAL:
                await self._mark(path, claim, INFEASIBLE)
            return
        others = [one for one in claim["status"].get("conditions", []) if one["type"] not in CONDITIONS]
        await self._mark(path, claim, None, capacity=volume["spec"]["capacity"], conditions=others)

    async def _mark(self, path: str, claim: dict[str, Any], state: str | None, **more: Any) -> None:
        """Writes the state of an expansion. None: it is done."""
        states = {"storage": state} if state else None
        body = {"metadata": {"uid": claim["metadata"]["uid"]}}
        status = {"allocatedResourceStatuses": states, **more}
        await self._call("PATCH", f"{path}/status", body | {"status": status})

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        async with self._session.request(method, path, json=body, headers={"Content-Type": MERGE}) as answer:
            if answer.status >= 400:
                raise OSError(f"{method} {path}: {answer.status} {await answer.text()}")
            return await answer.json()


def _state(claim: dict[str, Any]) -> str:
    """Where the expansion of a claim stands, empty if there is none."""
    return str(claim.get("status", {}).get("allocatedResourceStatuses", {}).get("storage", ""))
