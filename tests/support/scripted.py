"""The service over the scripted API server, and what its tests ask of that server."""

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.spec import SandboxSpec
from sandbox_server.settings import Settings

from tests.support import samples
from tests.support.rig import A, Rig
from tests.support.scripted_api import ScriptedApi
from tests.support.waiting import PATIENCE

SETS = "apis/apps/v1/namespaces/default/statefulsets"
SERVICES = "api/v1/namespaces/default/services"
INGRESSES = "apis/networking.k8s.io/v1/namespaces/default/ingresses"
EVENTS = "api/v1/namespaces/default/events"
PODS = "api/v1/namespaces/default/pods"
SECRETS = "api/v1/namespaces/default/secrets"
CLAIMS = "api/v1/namespaces/default/persistentvolumeclaims"
CLAIM = f"vn-homevn-agent-{A}-0"
DENIED = 'create Pod p failed error: pods "p" is forbidden: violates PodSecurity "restricted:latest": no'


LONG_AGO, LATER = "2020-01-01T00:00:00.000000Z", "2020-01-01T00:05:00.000000Z"
TIMES: dict[str, dict[str, Any]] = {
    # client-go/tools/record, by a clock that is years behind
    "legacy": {"firstTimestamp": "2020-01-01T00:00:00Z", "lastTimestamp": "2020-01-01T00:00:00Z", "count": 1},
    # client-go/tools/events, as the API server shows them in v1
    "new": {"eventTime": LONG_AGO, "firstTimestamp": None, "lastTimestamp": None},
    "series": {"eventTime": LONG_AGO, "lastTimestamp": None, "series": {"count": 2, "lastObservedTime": LATER}},
    "ahead": {"firstTimestamp": "2120-01-01T00:00:00Z", "lastTimestamp": "2120-01-01T00:00:00Z"},
}


ANSWERED_WITHIN = 20.0
"""Seconds for an answer of the API server: a process that stalls for a while must not take it for one that does not answer.

The subject of a test with `UNANSWERED` is a call that is not answered."""
UNANSWERED = 1.0


class ScriptedGround:
    namespace = "default"

    def __init__(self, api: ScriptedApi, folder: Path, answered_within: float = ANSWERED_WITHIN) -> None:
        self.api = api
        self.settings = Settings(
            engine="kubernetes", kubeconfig=api.kubeconfig(folder), cluster_timeout=answered_within, cluster_silence=1.0
        )

    def spec(self) -> SandboxSpec:
        return samples.spec()

    async def crash(self, sandbox: Sandbox) -> None:
        self.api.crashing.add(sandbox.id)
        self.api.control("default", sandbox.id)

    async def heal(self, sandbox: Sandbox) -> None:
        self.api.crashing.discard(sandbox.id)
        self.api.control("default", sandbox.id)


@contextlib.asynccontextmanager
async def started(rig: Rig) -> AsyncIterator[Rig]:
    await rig.start()
    try:
        yield rig
    finally:
        await rig.stop()


def is_watch(request: web.Request) -> bool:
    return request.query.get("watch") == "true"


async def hang(_: web.Request) -> web.StreamResponse | None:
    await asyncio.sleep(30)
    return None


async def until(holds: Callable[[], bool], within: float = 10) -> None:
    async with asyncio.timeout(within * PATIENCE):
        while not holds():
            await asyncio.sleep(0.01)


async def until_secret(api: ScriptedApi, name: str) -> None:
    """Waits until there is that Secret and no other."""
    await until(lambda: api.objects.get(SECRETS, {}).keys() == {name})


async def until_looked_up(api: ScriptedApi, since: int, names: list[str]) -> None:
    await until(lambda: looked_up(api, since) == names)


def writes(api: ScriptedApi) -> list[tuple[str, str]]:
    return [(method, path.rpartition("/")[2]) for method, path in api.calls if method not in ("GET", "WATCH", "TRIAL")]


def looked_up(api: ScriptedApi, since: int) -> list[str]:
    """The objects that were asked for by name."""
    asked = [path.partition("/namespaces/")[2].split("/") for method, path in api.calls[since:] if method == "GET"]
    return [one[-1] for one in asked if len(one) == 3]


def event(name: str, about: dict[str, Any], kind: str, message: str, times: str = "new") -> dict[str, Any]:
    meta = about["metadata"]
    involved = {"kind": kind, "name": meta["name"], "uid": meta["uid"]}
    return {
        "metadata": {"name": name},
        "involvedObject": involved,
        "reason": "FailedCreate",
        "message": message,
        **TIMES[times],
    }


def lose(api: ScriptedApi) -> None:
    """What the volume controller does when the bound volume is removed."""
    claim = api.objects[CLAIMS][CLAIM]
    api.put(CLAIMS, claim | {"status": claim["status"] | {"phase": "Lost"}})


def evict(api: ScriptedApi, pods: str, name: str) -> None:
    """What a kubelet says of a pod that it has evicted."""
    pod = copy.deepcopy(api.objects[pods][name])
    pod["status"] |= {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    api.put(pods, pod)


def lose_node(api: ScriptedApi, pods: str, name: str) -> None:
    """What the node controller says of a pod whose node does not answer."""
    pod = copy.deepcopy(api.objects[pods][name])
    for condition in pod["status"]["conditions"]:
        if condition["type"] == "Ready":
            condition["status"] = "False"
    api.put(pods, pod)
