"""A scripted API server: it keeps the API's contract (versions, pages, watches, apply, preconditions), is its own
StatefulSet controller and kubelet, and misbehaves as a test says."""

import asyncio
import copy
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

Misdeed = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


class ScriptedApi:
    """`misdeeds` are asked before each request, in order; one that answers is used up unless it is in `lasting`."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {}
        self.version = 100
        self.oldest = 0
        self.history: list[tuple[int, str, str, dict[str, Any]]] = []
        self.misdeeds: list[tuple[Callable[[web.Request], bool], Misdeed]] = []
        self.lasting: list[tuple[Callable[[web.Request], bool], Misdeed]] = []
        self.calls: list[tuple[str, str]] = []
        self.crashing: set[str] = set()
        self.watches = 0
        self.page = 500
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def once(self, matches: Callable[[web.Request], bool], misdeed: Misdeed) -> None:
        self.misdeeds.append((matches, misdeed))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.calls.append((request.method, request.path))
        for listed, used_up in ((self.misdeeds, True), (self.lasting, False)):
            for entry in list(listed):
                matches, misdeed = entry
                if matches(request):
                    if used_up:
                        listed.remove(entry)
                    answer = await misdeed(request)
                    if answer is not None:
                        return answer
        return await self.obey(request)

    async def obey(self, request: web.Request) -> web.StreamResponse:
        """What a good server answers."""
        parts = request.path.strip("/").split("/")
        at = parts.index("namespaces")
        collection, name = "/".join(parts[: at + 3]), "/".join(parts[at + 3 :])
        if request.method == "GET" and not name:
            watched = request.query.get("watch") == "true"
            return await self._watch(request, collection) if watched else self._list(request, collection)
        known = self.objects.get(collection, {}).get(name)
        if request.method == "PATCH":
            return self._apply(collection, name, await request.json())
        if known is None:
            return status(404, f'{parts[at + 2]} "{name}" not found')
        if request.method == "DELETE":
            wanted = (await request.json()).get("preconditions", {}).get("uid")
            if wanted not in (None, known["metadata"]["uid"]):
                return status(409, "the UID in the precondition does not match")
            self.delete(collection, name)
        return web.json_response(known)

    def _list(self, request: web.Request, collection: str) -> web.Response:
        found = sorted(self.objects.get(collection, {}).values(), key=lambda one: one["metadata"]["name"])
        start = int(request.query.get("continue", "0"))
        end = start + min(self.page, int(request.query.get("limit", "500")))
        meta = {"resourceVersion": str(self.version)}
        if end < len(found):
            meta["continue"] = str(end)
        return web.json_response({"metadata": meta, "items": found[start:end]})

    async def _watch(self, request: web.Request, collection: str) -> web.StreamResponse:
        self.watches += 1
        since = int(request.query["resourceVersion"])
        if since < self.oldest:
            return status(410, "too old resource version")
        stream = web.StreamResponse()
        await stream.prepare(request)
        while True:
            changed = self._changed
            for version, where, kind, value in [one for one in self.history if one[0] > since]:
                if where in (collection, ""):
                    await stream.write(json.dumps({"type": kind, "object": value}).encode() + b"\n")
                since = version
            await changed.wait()

    def tell(self, collection: str, kind: str, value: dict[str, Any]) -> None:
        """Adds an event to every watch of a collection; of all for an empty one."""
        self.history.append((self.version, collection, kind, copy.deepcopy(value)))
        self._changed.set()
        self._changed = asyncio.Event()

    def put(self, collection: str, value: dict[str, Any]) -> dict[str, Any]:
        """Creates or changes an object, as a controller would."""
        name = value["metadata"]["name"]
        known = self.objects.setdefault(collection, {}).get(name)
        self.version += 1
        meta = value["metadata"]
        meta["resourceVersion"] = str(self.version)
        meta.setdefault("uid", known["metadata"]["uid"] if known else str(uuid.uuid4()))
        meta.setdefault("namespace", collection.split("/")[-2])
        changed = known is None or known.get("spec") != value.get("spec")
        before = known["metadata"]["generation"] if known else 0
        meta["generation"] = before + 1 if changed else before
        self.objects[collection][name] = value
        self.tell(collection, "MODIFIED" if known else "ADDED", value)
        return value

    def delete(self, collection: str, name: str) -> None:
        gone = self.objects.get(collection, {}).pop(name, None)
        if gone is None:
            return
        self.version += 1
        gone["metadata"]["resourceVersion"] = str(self.version)
        self.tell(collection, "DELETED", gone)
        if collection.endswith("statefulsets"):
            self._control(collection.split("/")[-2], name)

    def _apply(self, collection: str, name: str, body: dict[str, Any]) -> web.Response:
        known = self.objects.get(collection, {}).get(name)
        if known is not None:
            body["metadata"]["uid"] = known["metadata"]["uid"]
        made = self.put(collection, body)
        if collection.endswith("statefulsets"):
            self._control(made["metadata"]["namespace"], name)
        return web.json_response(made, status=200 if known else 201)

    def _control(self, namespace: str, name: str) -> None:
        asyncio.get_running_loop().call_later(0.01, self.control, namespace, name)

    def control(self, namespace: str, name: str) -> None:
        """Brings the pod and the claim of a StatefulSet to what it says."""
        pods, claims = (f"api/v1/namespaces/{namespace}/pods", f"api/v1/namespaces/{namespace}/persistentvolumeclaims")
        found = self.objects.get(f"apis/apps/v1/namespaces/{namespace}/statefulsets", {}).get(name)
        pod = self.objects.get(pods, {}).get(f"{name}-0")
        template = found["spec"]["template"] if found else None
        wanted = found is not None and found["spec"]["replicas"] == 1
        if pod is not None and (not wanted or pod["metadata"]["annotations"] != template["metadata"]["annotations"]):
            self.delete(pods, f"{name}-0")
            self._control(namespace, name)
            return
        if not wanted or found is None or template is None:
            return
        claim = copy.deepcopy(found["spec"]["volumeClaimTemplates"][0])
        claim["metadata"]["name"] += f"-{name}-0"
        if claim["metadata"]["name"] not in self.objects.get(claims, {}):
            self.put(claims, claim | {"status": {"phase": "Bound", "capacity": {"storage": "5Gi"}}})
        crashing = name in self.crashing
        value = "False" if crashing else "True"
        conditions = [{"type": one, "status": value} for one in ("Ready", "ContainersReady")]
        container: dict[str, Any] = {"ready": not crashing, "restartCount": 0, "state": {"running": {"startedAt": "x"}}}
        if crashing:
            ended = {"terminated": {"exitCode": 3, "reason": "Error"}}
            container |= {"restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended}
        meta = copy.deepcopy(template["metadata"]) | {"name": f"{name}-0"}
        conditions.append({"type": "PodScheduled", "status": "True"})
        self.put(
            pods,
            {
                "metadata": meta,
                "status": {"phase": "Running", "conditions": conditions, "containerStatuses": [container]},
            },
        )


def status(code: int, message: str, **headers: str) -> web.Response:
    """A Status answer."""
    body = {"kind": "Status", "status": "Failure", "message": message, "code": code}
    return web.json_response(body, status=code, headers=headers)
