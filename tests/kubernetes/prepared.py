"""What a kubelet prepares before it starts the containers of a pod: volumes, and the values of variables."""

import asyncio
import base64
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from scripts import image_run

AGAIN = 0.2
"""Seconds until something that is missing is looked for again."""


class Removed(Exception):
    """The pod was deleted before it could start."""


@dataclass(frozen=True)
class Made:
    """What a kubelet prepares before it starts the containers of a pod: folders by volume, variables by container."""

    volumes: Mapping[str, Path]
    variables: Mapping[str, Mapping[str, str]]


class Kubelet:
    """Prepares pods in `folder`, by the rights of `session`."""

    def __init__(self, session: aiohttp.ClientSession, folder: Path) -> None:
        self._session = session
        self._folder = folder

    async def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        async with self._session.request(method, path, json=body, headers={"Content-Type": kind}) as answer:
            if answer.status >= 400 and not (method in ("PATCH", "DELETE") and answer.status == 404):
                raise OSError(f"{method} {path}: {answer.status} {await answer.text()}")
            return await answer.json()

    async def made(self, pod: dict[str, Any], deleted: asyncio.Event) -> Made:
        """Makes the volumes and finds the variables of a pod. Waits for what is not there yet, as a kubelet does."""
        spec, meta = pod["spec"], pod["metadata"]
        while True:
            folder = Path(tempfile.mkdtemp(dir=self._folder))
            folder.chmod(0o755)
            try:
                volumes = {one["name"]: await self._volume(one, folder, pod) for one in spec["volumes"]}
                containers = [*spec.get("initContainers", []), *spec["containers"]]
                variables = {
                    container["name"]: {
                        one["name"]: await self._value(one, meta["namespace"]) for one in container["env"]
                    }
                    for container in containers
                }
                return Made(volumes, variables)
            except (OSError, KeyError):
                if deleted.is_set():
                    raise Removed from None
                await asyncio.sleep(AGAIN)

    async def _value(self, variable: dict[str, Any], namespace: str) -> str:
        """The value of a variable. As in a kubelet, `$$` is one `$`."""
        if "valueFrom" not in variable:
            return str(variable.get("value", "")).replace("$$", "$")
        chosen = variable["valueFrom"]["secretKeyRef"]
        return (await self._secret(namespace, chosen["name"]))[chosen["key"]].decode()

    async def _secret(self, namespace: str, name: str) -> dict[str, bytes]:
        secret = await self.call("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")
        return {key: base64.b64decode(value) for key, value in secret["data"].items()}

    async def _volume(self, volume: dict[str, Any], folder: Path, pod: dict[str, Any]) -> Path:
        """Makes a volume as a kubelet does, and returns its folder."""
        namespace, place = pod["metadata"]["namespace"], folder / volume["name"]
        user = f"{pod['spec']['securityContext']['runAsUser']}:{pod['spec']['securityContext']['fsGroup']}"
        if "secret" in volume:
            source = volume["secret"]
            content = await self._secret(namespace, source["secretName"])
            return image_run.secret_volume(place, content, source["defaultMode"], user)
        if "projected" in volume:
            account = await self._account(volume["projected"]["sources"], pod)
            return image_run.secret_volume(place, account, 0o440, user)
        if "persistentVolumeClaim" in volume:
            place = self._folder / f"{namespace}-{volume['persistentVolumeClaim']['claimName']}"
        if not place.exists():
            place.mkdir()
            os.chown(place, 0, int(user.partition(":")[2]))
            place.chmod(0o2775)
        return place

    async def _account(self, sources: list[dict[str, Any]], pod: dict[str, Any]) -> dict[str, bytes]:
        """The files of the pod's ServiceAccount."""
        namespace, files = pod["metadata"]["namespace"], {"namespace": pod["metadata"]["namespace"].encode()}
        for source in sources:
            if "serviceAccountToken" in source:
                path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{pod['spec']['serviceAccountName']}/token"
                bound = {"kind": "Pod", "apiVersion": "v1"} | {one: pod["metadata"][one] for one in ("name", "uid")}
                made = await self.call("POST", path, {"spec": {"boundObjectRef": bound, "expirationSeconds": 3600}})
                files[source["serviceAccountToken"]["path"]] = made["status"]["token"].encode()
            if "configMap" in source:
                path = f"/api/v1/namespaces/{namespace}/configmaps/{source['configMap']['name']}"
                data = (await self.call("GET", path))["data"]
                files |= {one["path"]: data[one["key"]].encode() for one in source["configMap"]["items"]}
        return files
