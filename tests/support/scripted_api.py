"""A scripted API server: it keeps the API's contract (versions, pages, watches, selectors, server-side apply with its
ownership, preconditions), is its own StatefulSet controller, volume binder and kubelet, and misbehaves as a test says."""

import asyncio
import base64
import itertools
import marshal
import ssl
import uuid
import zlib
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
from aiohttp import web

from tests.support import samples
from tests.support.counting_pod import Verifier
from tests.support.scripted_cluster import ScriptedCluster
from tests.support.scripted_disks import Disks
from tests.support.scripted_kubelet import Kubelet
from tests.support.scripted_logs import Logs
from tests.support.scripted_ports import Ports
from tests.support.scripted_quantities import kept
from tests.support.scripted_resizes import Resizes

Misdeed = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
OURS = "sandbox-service"
CREATED = "created by a call"
"""The manager of the fields of an object that was not applied."""
SNAPSHOTS = "snapshot.storage.k8s.io"
UNOWNED = {("apiVersion",), ("kind",)} | {
    ("metadata", one) for one in ("name", "namespace", "uid", "generation", "resourceVersion", "managedFields")
}
T = TypeVar("T")
Leaves = dict[tuple[str, ...], Any]
Told = tuple[int, str, str, dict[str, Any]]
"""An event of a watch: the version, the collection, or none for all, what has happened, and the object."""
MERGE = "application/merge-patch+json"
PROTECTION = "kubernetes.io/pvc-protection"
FOREGROUND = "foregroundDeletion"
REVISION = "controller-revision-hash"
READY_AFTER = 1.0
"""Seconds from when a started API server knows its roles to when `/readyz` says that it is ready: 0.7 to 1.2 were measured."""


class Watching:
    """A watch: the events that it is yet to send, and what wakes it when there are others."""

    def __init__(self, following: list[Told]) -> None:
        self.following = following
        self.news = asyncio.Event()


class ScriptedApi:
    """`misdeeds` are asked before each request, in order; one that answers is used up unless it is in `lasting`.

    The pods of sandboxes in `unmade` are not made, those in `crashing` crash; while `unbound`, no claim binds.
    `namespace` is the state of every namespace: Active, Terminating or Missing. The service has rights in it while there
    is a `role`, and with `namespace_rights` may get the namespace itself. With `access` it may enter pods, which `kubelet`
    then does.
    What is outside of namespaces is in `cluster`. `snapshots`: whether it serves VolumeSnapshots, `takes_snapshots`:
    whether they become ready.
    Of its `controllers`, that of StatefulSets and the garbage collector can be taken away.
    `keeps_broken_pods`: a pod that is not ready is not replaced when the template changes, as on Kubernetes 1.35.0 to
    1.35.3 (kubernetes#137409).
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {}
        self.version = 100
        self.oldest = 0
        self.history: list[Told] = []
        self.misdeeds: list[tuple[Callable[[web.Request], bool], Misdeed]] = []
        self.lasting: list[tuple[Callable[[web.Request], bool], Misdeed]] = []
        self.calls: list[tuple[str, str]] = []
        self.crashing: set[str] = set()
        self.unmade: set[str] = set()
        self.unbound = False
        self.keeps_broken_pods = False
        self.page = 500
        self.controllers = {"StatefulSet", "garbage"}
        self.role = self.ready = True
        self.snapshots = self.takes_snapshots = True
        self.namespace_rights = False
        self.access = True
        self.kubelet = Kubelet()
        self.logs = Logs()
        self.ports = Ports()
        self.verifier = Verifier()
        self.disks = Disks()
        self.resizes = Resizes()
        self.namespace = "Active"
        self.cluster = ScriptedCluster()
        self._owned: dict[tuple[str, str], dict[str, set[tuple[str, ...]]]] = {}
        self._dependents: dict[str, set[tuple[str, str]]] = {}
        """Of each owner, by uid, what names or named it."""
        self._uids: set[str] = set()
        """Of every object that is there."""
        self._watches: dict[str, list[Watching]] = {}
        """Those of each collection."""
        self._epoch = 0
        self.starts: list[tuple[str, dict[str, str]]] = []
        """The generation of each pod that has started, and the environment that its process was given."""
        self._reported: dict[str, bool] = {}
        """Of each pod, by uid, whether it was last reported to crash."""
        self._runner: web.ServerRunner | None = None
        self.port = 0

    async def start(self) -> None:
        # Without the routes of an application, which take longer than most answers. No more than a `BaseRequest` is used.
        server = web.Server(cast(Any, self._answer), access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        self.port = await self.listen(port=self.port)

    async def listen(self, context: ssl.SSLContext | None = None, port: int = 0) -> int:
        """Answers on a port, with TLS if there is a context for it; the port."""
        assert self._runner is not None
        await web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=context).start()
        return int(self._runner.addresses[-1][1])

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
        self.kubelet.end()

    def kubeconfig(self, folder: Path) -> Path:
        """Writes a kubeconfig that leads here."""
        return samples.kubeconfig(folder, self.port)

    def once(self, matches: Callable[[web.Request], bool], misdeed: Misdeed) -> None:
        self.misdeeds.append((matches, misdeed))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        watch = request.query.get("watch") == "true"
        kind = "WATCH" if watch else "TRIAL" if "dryRun" in request.query else request.method
        self.calls.append((kind, request.path))
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
        if "namespaces" not in parts:
            if parts[1:] == [SNAPSHOTS, "v1"]:
                return answer({"kind": "APIResourceList"}) if self.snapshots else status(404, "not found")
            if parts == ["readyz"]:
                return web.Response(text="ok") if self.ready else status(500 if self.role else 403, "not ready")
            return await self.cluster.answer(request)
        at = parts.index("namespaces")
        if refused := self._refused(request.method, parts[at + 1], parts[at + 2] if parts[at + 2 :] else ""):
            return refused
        if not parts[at + 2 :]:
            going = {"deletionTimestamp": "2026-01-02T03:04:05Z"} if self.namespace == "Terminating" else {}
            return answer({"metadata": {"name": parts[at + 1], "labels": self.cluster.labels} | going})
        collection, name = "/".join(parts[: at + 3]), "/".join(parts[at + 3 :])
        if parts[1] == SNAPSHOTS and not self.snapshots:
            return status(404, "the server could not find the requested resource")
        if request.method == "GET" and not name:
            watched = request.query.get("watch") == "true"
            return await self._watch(request, collection) if watched else self._list(request, collection)
        name, _, subresource = name.partition("/")
        if parts[at + 2] == "pods" and not self.access:
            return forbidden("get", f"pods/{subresource}".rstrip("/"), parts[at + 1])
        known = self.objects.get(collection, {}).get(name)
        if request.method in ("PATCH", "POST") and known is None and self.namespace != "Active":
            words = f"unable to create new content in namespace {parts[at + 1]} because it is being terminated"
            gone = self.namespace == "Missing"
            return status(404, f'namespaces "{parts[at + 1]}" not found') if gone else status(403, words)
        if request.method == "POST":
            body = await decoded(request)
            if "dryRun" in request.query:
                return answer(body, 201)
            return self._create(collection, body)
        if request.method == "PATCH" and request.headers["Content-Type"] == MERGE:
            body = await decoded(request)
            manages = "managedFields" in body["metadata"]
            return self._manage(collection, name, body) if manages else self._merge(collection, name, body)
        if request.method == "PATCH" and subresource == "resize":
            return self._resize(collection, name, await decoded(request))
        if request.method == "PATCH":
            return self._apply(collection, name, await decoded(request))
        if known is None:
            return status(404, f'{parts[at + 2]} "{name}" not found')
        if subresource == "log":
            return await self.logs.answer(request, known, lambda: self.objects.get(collection, {}).get(name))
        if subresource == "portforward":
            return await self.ports.answer(request)
        if subresource:
            assert subresource == "exec"
            return await self.kubelet.exec(request, known, self.env(known), self.claim_of(known))
        if request.method == "DELETE":
            options = await decoded(request)
            preconditions = options.get("preconditions", {})
            if any(known["metadata"][name] != wanted for name, wanted in preconditions.items()):
                return status(409, "the object is not as the preconditions say")
            if options.get("propagationPolicy") == "Foreground":
                known["metadata"].setdefault("finalizers", []).append(FOREGROUND)
            self.remove(collection, name)
        return answer(shown(request, known))

    def _refused(self, method: str, namespace: str, resource: str) -> web.Response | None:
        """The answer of RBAC; a namespace that may be got and is not there is said so."""
        if resource or not self.namespace_rights:
            verb = {"PATCH": "patch", "POST": "create", "DELETE": "delete"}.get(method, "get")
            return None if resource and self.role else forbidden(verb, resource or "namespaces", namespace)
        return status(404, f'namespaces "{namespace}" not found') if self.namespace == "Missing" else None

    def _list(self, request: web.Request, collection: str) -> web.Response:
        everything = sorted(self.objects.get(collection, {}).values(), key=lambda one: one["metadata"]["name"])
        found = [one for one in everything if chosen(request, one)]
        start = int(request.query.get("continue", "0"))
        end = start + min(self.page, int(request.query.get("limit", "500")))
        meta = {"resourceVersion": str(self.version)}
        if end < len(found):
            meta["continue"] = str(end)
        items: list[dict[str, Any]] | None = found[start:end]
        if not items and "PartialObjectMetadata" in request.headers.get("Accept", ""):
            # As Go writes a list that was never begun.
            items = None
        return answer({"metadata": meta, "items": items})

    async def _watch(self, request: web.Request, collection: str) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        if since < self.oldest:
            return status(410, "too old resource version")
        stream = web.StreamResponse()
        await stream.prepare(request)
        # An API server sends the headers at once; aiohttp keeps them until there is something to send with them.
        await stream.write(b"\n")
        # An ERROR from before has ended another watch.
        before = [
            told for told in self.history if told[0] > since and told[1] in (collection, "") and told[2] != "ERROR"
        ]
        watching, epoch = Watching(before), self._epoch
        self._watches.setdefault(collection, []).append(watching)
        try:
            # Its API server is gone once that has another epoch.
            while self._epoch == epoch:
                watching.news.clear()
                following, watching.following = watching.following, []
                lines = []
                for version, _, kind, value in following:
                    if kind not in ("ERROR", "BOOKMARK"):
                        # A watch from a version that is yet to come says nothing before that.
                        if version <= since:
                            continue
                        if not chosen(request, value):
                            if kind != "MODIFIED":
                                continue
                            # To a watch by label, an API server reports the loss of the label as a removal.
                            kind = "DELETED"
                    lines.append(msgspec.json.encode({"type": kind, "object": value}) + b"\n")
                if lines:
                    await stream.write(b"".join(lines))
                await watching.news.wait()
        except ConnectionResetError:
            pass
        finally:
            self._watches[collection].remove(watching)
        return stream

    def _watching(self, collection: str = "") -> list["Watching"]:
        """The watches of a collection; all for an empty one."""
        return self._watches.get(collection, []) if collection else list(itertools.chain(*self._watches.values()))

    def _end_watches(self) -> None:
        """Ends every watch, as an API server does that ends."""
        self._epoch += 1
        for one in self._watching():
            one.news.set()

    def backup(self) -> tuple[int, dict[str, Any], dict[Any, Any]]:
        """What `restore` takes."""
        return copied((self.version, self.objects, self._owned))

    def restore(self, version: int, objects: dict[str, Any], owned: dict[Any, Any]) -> None:
        """Goes back to a backup, as a restored etcd or another cluster does: versions count on from there."""
        self.version, self.objects, self._owned = copied((version, objects, owned))
        self._uids = {one["metadata"]["uid"] for objects in self.objects.values() for one in objects.values()}
        self.history = []
        self._end_watches()

    def restart(self, without_roles: float) -> None:
        """Ends every watch, and answers 403 to everything for so many seconds, as an API server that has just started."""
        self._end_watches()
        self.role = self.ready = False
        asyncio.get_running_loop().call_later(without_roles, setattr, self, "role", True)
        asyncio.get_running_loop().call_later(without_roles + READY_AFTER, setattr, self, "ready", True)

    def tell(self, collection: str, kind: str, value: dict[str, Any]) -> None:
        """Adds an event to every watch of a collection; of all for an empty one."""
        told = (self.version, collection, kind, copied(value))
        self.history.append(told)
        for one in self._watching(collection):
            one.following.append(told)
            one.news.set()

    def put(
        self, collection: str, value: dict[str, Any], manager: str = "somebody", said: Iterable[tuple[str, ...]] = ()
    ) -> dict[str, Any]:
        """Creates or changes an object, as a controller would, or somebody by hand; OURS: as our apply of the fields `said`.

        Who changes a field owns it; what nobody has any more, nobody owns.
        """
        value = copied(value)
        name, meta = value["metadata"]["name"], value["metadata"]
        known = self.objects.setdefault(collection, {}).get(name)
        before, after = leaves(known or {}), leaves(value)
        owned = self._owned.setdefault((collection, name), {})
        changed_paths = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        for paths in owned.values():
            paths -= changed_paths
        if manager != OURS:
            owned.setdefault(manager, set()).update(changed_paths & after.keys())
        else:
            owned[OURS] = set(said)
        meta["managedFields"] = [managed(*one) for one in sorted(owned.items()) if one[1]]
        meta.setdefault("uid", known["metadata"]["uid"] if known else str(uuid.uuid4()))
        meta.setdefault("namespace", collection.split("/")[-2])
        if known is not None and without_version(known) == without_version(value):
            return known
        going = "deletionTimestamp" in meta and known is not None and "deletionTimestamp" not in known["metadata"]
        changed = known is None or known.get("spec") != value.get("spec") or going
        meta["generation"] = (known["metadata"]["generation"] if known else 0) + changed
        self.version += 1
        meta["resourceVersion"] = str(self.version)
        self.objects[collection][name] = value
        if known is not None:
            self._uids.discard(known["metadata"]["uid"])
        self._uids.add(meta["uid"])
        self.tell(collection, "MODIFIED" if known else "ADDED", value)
        for owner in meta.get("ownerReferences", []):
            self._dependents.setdefault(owner["uid"], set()).add((collection, name))
        if "ownerReferences" in meta:
            asyncio.get_running_loop().call_later(0.01, self._collect, collection, name)
        return value

    def _collect(self, collection: str, name: str) -> None:
        """Removes an object whose owners are all gone, as the garbage collector does."""
        found = self.objects.get(collection, {}).get(name)
        if found is None or "garbage" not in self.controllers:
            return
        owners = {one["uid"] for one in found["metadata"].get("ownerReferences", [])}
        if owners and not owners & self._uids:
            self.remove(collection, name)

    def edit(self, collection: str, name: str, manager: str = "somebody", **spec: Any) -> dict[str, Any]:
        """Changes fields of an object's spec by hand."""
        value = copied(self.objects[collection][name])
        value["spec"] |= spec
        return self.put(collection, value, manager)

    def remove(self, collection: str, name: str) -> None:
        """Deletes an object as a call does: it stays until nothing holds it any more."""
        found = self.objects[collection][name]
        if not found["metadata"].get("finalizers"):
            self.delete(collection, name)
        elif "deletionTimestamp" not in found["metadata"]:
            going = found["metadata"] | {"deletionTimestamp": "2026-01-02T03:04:05Z"}
            self.put(collection, found | {"metadata": going})
            if collection.endswith("statefulsets"):
                self._control(collection.split("/")[-2], name)
            if collection.endswith("persistentvolumeclaims"):
                asyncio.get_running_loop().call_later(0.01, self._release, collection, name)

    def _release(self, claims: str, name: str) -> None:
        """Takes the protection from a claim that is being removed, unless a pod with a node uses it."""
        claim = self.objects.get(claims, {}).get(name)
        pods = self.objects.get(claims.replace("persistentvolumeclaims", "pods"), {})
        pod = pods.get(name.removeprefix("vn-homevn-agent-"))
        if claim is None or "deletionTimestamp" not in claim["metadata"] or (pod is not None and has_node(pod)):
            return
        left = [one for one in claim["metadata"].get("finalizers", []) if one != PROTECTION]
        if left:
            self.put(claims, claim | {"metadata": claim["metadata"] | {"finalizers": left}})
        else:
            self.delete(claims, name)

    def delete(self, collection: str, name: str) -> None:
        """Removes an object at once."""
        gone = self.objects.get(collection, {}).pop(name, None)
        if gone is None:
            return
        del self._owned[collection, name]
        self.version += 1
        gone["metadata"]["resourceVersion"] = str(self.version)
        self.tell(collection, "DELETED", gone)
        self._uids.discard(gone["metadata"]["uid"])
        for where, dependent in self._dependents.get(gone["metadata"]["uid"], ()):
            asyncio.get_running_loop().call_later(0.01, self._collect, where, dependent)
        if collection.endswith("statefulsets"):
            self._control(collection.split("/")[-2], name)
        if collection.endswith("pods"):
            self.kubelet.kill(self.kubelet.container(gone))
            claims = collection.replace("pods", "persistentvolumeclaims")
            for claim in (f"vn-homevn-agent-{name}", name):
                self._release(claims, claim)

    def _create(self, collection: str, body: dict[str, Any]) -> web.Response:
        name = body["metadata"]["name"]
        if name in self.objects.get(collection, {}):
            return status(409, f'{collection.rpartition("/")[2]} "{name}" already exists')
        if self.takes_snapshots and collection.endswith("volumesnapshots"):
            asyncio.get_running_loop().call_later(0.01, self.take, collection, name)
        if collection.endswith("persistentvolumeclaims"):
            body["metadata"]["finalizers"] = [PROTECTION]
        if collection.endswith("pods"):
            asyncio.get_running_loop().call_later(0.01, self._verify, collection, name)
            body["status"] = {"phase": "Pending"}
        return answer(self.put(collection, body, CREATED), 201)

    def _verify(self, collection: str, name: str) -> None:
        """What the storage and the kubelet do for a pod that counts what was restored."""
        claims = collection.replace("pods", "persistentvolumeclaims")
        pod, claim = self.objects[collection].get(name), self.objects.get(claims, {}).get(name)
        if pod is None or claim is None or (ended := self.verifier.ended(pod, claim)) is None:
            return
        self.put(claims, self.disks.bound(claim))
        scheduled = {"conditions": [{"type": "PodScheduled", "status": "True"}]}
        self.put(collection, pod | {"status": ended | scheduled})

    def take(self, collection: str, name: str) -> None:
        """What the snapshot controller says once the storage has a snapshot."""
        if made := self.objects[collection].get(name):
            claims = self.objects.get(f"api/v1/namespaces/{collection.split('/')[-2]}/persistentvolumeclaims", {})
            self.put(collection, made | {"status": self.disks.taken(made, claims)})

    def _apply(self, collection: str, name: str, body: dict[str, Any]) -> web.Response:
        """What we owned and no longer say goes; what others added stays."""
        before = self.objects.get(collection, {}).get(name, {})
        known = copied(before)
        fresh, meta = not known, body["metadata"]
        uid, version = meta.pop("uid", None), meta.pop("resourceVersion", None)
        if (uid and (fresh or uid != known["metadata"]["uid"])) or (
            version and not fresh and version != known["metadata"]["resourceVersion"]
        ):
            return status(409, f'Operation cannot be fulfilled on "{name}": the object has been modified')
        said = leaves(body)
        owned = self._owned.get((collection, name), {})
        others = set[tuple[str, ...]]().union(*(paths for manager, paths in owned.items() if manager != OURS))
        for path in owned.get(OURS, set()) - said.keys() - others:
            take(known, path)
        merge(known, body)
        if not fresh and (words := refusal(collection, before, known)):
            return status(422, f'"{name}" is invalid: {words}')
        if fresh and collection.endswith("persistentvolumeclaims"):
            known["metadata"]["finalizers"] = [PROTECTION]
        made = self.put(collection, known, OURS, said)
        if collection.endswith("statefulsets"):
            self._control(made["metadata"]["namespace"], name)
        if collection.endswith("persistentvolumeclaims"):
            self._control(made["metadata"]["namespace"], name.removeprefix("vn-homevn-agent-").removesuffix("-0"))
        if collection.endswith("pods") and fresh:
            asyncio.get_running_loop().call_later(0.01, self.start_pod, collection, name)
        return answer(made, 201 if fresh else 200)

    def start_pod(self, collection: str, name: str) -> None:
        """Runs a pod that no controller has made, and binds its claim."""
        pod = self.objects.get(collection, {}).get(name)
        if pod is None or self.unbound:
            return
        claims = self.objects.get(collection.replace("pods", "persistentvolumeclaims"), {})
        for claim in [one for one in claims.values() if one["metadata"]["uid"] == self.claim_of(pod)]:
            self.put(collection.replace("pods", "persistentvolumeclaims"), self.disks.bound(claim))
        conditions = [{"type": one, "status": "True"} for one in ("PodScheduled", "Ready", "ContainersReady")]
        runs = {"ready": True, "restartCount": 0, "state": {"running": {"startedAt": "x"}}}
        told = [{"name": one["name"]} | runs for one in pod["spec"]["containers"]]
        status = {"phase": "Running", "conditions": conditions, "containerStatuses": told}
        self.put(collection, pod | {"status": status})

    def _merge(self, collection: str, name: str, body: dict[str, Any]) -> web.Response:
        """A merge patch, which names the version that it is for. Only claims are changed so."""
        before = self.objects.get(collection, {}).get(name)
        if before is None:
            return status(404, f'persistentvolumeclaims "{name}" not found')
        meta = body["metadata"]
        if any(meta.pop(one) != before["metadata"][one] for one in ("uid", "resourceVersion")):
            return status(409, f'Operation cannot be fulfilled on "{name}": the object has been modified')
        known = copied(before)
        merge(known, body)
        requests = known["spec"]["resources"]["requests"]
        requests["storage"] = kept(requests["storage"])
        if refused := self.disks.refusal(before, known):
            return status(*refused)
        made = self.put(collection, known, OURS, self._owned[collection, name].get(OURS, set()) | leaves(body).keys())
        self.grow(made["metadata"]["namespace"], name)
        return answer(made)

    def _resize(self, collection: str, name: str, body: dict[str, Any]) -> web.Response:
        """Another pod spec, which the kubelet then looks at."""
        pod = self.objects.get(collection, {}).get(name)
        if pod is None:
            return status(404, f'pods "{name}" not found')
        made = self.resizes.resized(pod, body)
        if isinstance(made, tuple):
            return status(*made)
        resized = self.put(collection, made, OURS)
        asyncio.get_running_loop().call_later(0.01, self.look_at, collection, name)
        return answer(resized)

    def look_at(self, collection: str, name: str) -> None:
        """Has the kubelet look at the resources of a pod."""
        if pod := self.objects.get(collection, {}).get(name):
            self.put(collection, self.resizes.seen(pod))

    def grow(self, namespace: str, name: str) -> None:
        """Has the resizer and the kubelet go on with the disk of a claim, a step at a time."""
        asyncio.get_running_loop().call_later(0.01, self._grow, namespace, name)

    def _grow(self, namespace: str, name: str) -> None:
        claims, events = (f"api/v1/namespaces/{namespace}/{one}" for one in ("persistentvolumeclaims", "events"))
        claim = self.objects.get(claims, {}).get(name)
        pods = self.objects.get(f"api/v1/namespaces/{namespace}/pods", {})
        if claim is not None and self.disks.step(
            claim,
            name.removeprefix("vn-homevn-agent-") in pods,
            lambda value: self.put(claims, value),
            lambda value: self.put(events, value),
        ):
            self.grow(namespace, name)

    def _manage(self, collection: str, name: str, body: dict[str, Any]) -> web.Response:
        """Another owner of fields: what is changed but for claims by a merge patch."""
        known, meta = self.objects[collection][name], body["metadata"]
        if any(known["metadata"][one] != meta.pop(one) for one in ("uid", "resourceVersion")):
            return status(409, f'Operation cannot be fulfilled on "{name}": the object has been modified')
        assert body.keys() == {"metadata"}
        assert meta.keys() == {"managedFields"}
        self._owned[collection, name] = {one["manager"]: paths(one["fieldsV1"]) for one in meta["managedFields"]}
        return answer(self.put(collection, known))

    def _control(self, namespace: str, name: str) -> None:
        asyncio.get_running_loop().call_later(0.01, self.control, namespace, name)

    def control(self, namespace: str, name: str) -> None:
        """Brings the claim and the pod of a StatefulSet to what it says. A claim that names a volume never binds."""
        pods, claims = (f"api/v1/namespaces/{namespace}/pods", f"api/v1/namespaces/{namespace}/persistentvolumeclaims")
        sets = f"apis/apps/v1/namespaces/{namespace}/statefulsets"
        snapshots = f"apis/{SNAPSHOTS}/v1/namespaces/{namespace}/volumesnapshots"
        found = self.objects.get(sets, {}).get(name)
        if (found is None or "deletionTimestamp" in found["metadata"]) and "garbage" not in self.controllers:
            return
        if found is not None and "deletionTimestamp" in found["metadata"]:
            # Nothing is made for it any more. Removed in the foreground, it goes after its pod.
            finalizers = found["metadata"].get("finalizers", [])
            if FOREGROUND in finalizers:
                self.delete(pods, f"{name}-0")
                left = [one for one in finalizers if one != FOREGROUND]
                found = self.put(sets, found | {"metadata": found["metadata"] | {"finalizers": left}})
            if not found["metadata"].get("finalizers"):
                self.delete(sets, name)
                return
        if found is not None and "StatefulSet" not in self.controllers:
            return
        if found is not None:
            revision = f"{name}-{zlib.crc32(msgspec.json.encode(found['spec']['template'], order='sorted'))}"
            seen = {"observedGeneration": found["metadata"]["generation"], "updateRevision": revision}
            found = self.put(sets, found | {"status": seen})
            if "deletionTimestamp" in found["metadata"]:
                return
        pod = self.objects.get(pods, {}).get(f"{name}-0")
        template = found["spec"]["template"] if found else None
        wanted = found is not None and found["spec"]["replicas"] > 0
        outdated = (
            pod is not None and found is not None and made_from(pod) not in ("", found["status"]["updateRevision"])
        )
        if pod is not None and outdated and self.keeps_broken_pods and wanted and not is_ready(pod):
            return
        if pod is not None and (not wanted or outdated):
            self.delete(pods, f"{name}-0")
            self._control(namespace, name)
            return
        if not wanted or found is None or template is None or self.namespace != "Active":
            return
        claim, *_ = [self._claim(claims, found, ordinal) for ordinal in range(found["spec"]["replicas"])]
        if name in self.unmade:
            return
        crashing = name in self.crashing
        if pod is not None and self._reported.get(pod["metadata"]["uid"]) is crashing:
            # It runs already, whatever became of its claim, and a kubelet says nothing new: what a test made of it stays.
            return
        owner = {"kind": "StatefulSet", "name": name, "uid": found["metadata"]["uid"]}
        meta = copied(template["metadata"]) | {"name": f"{name}-0", "ownerReferences": [owner]}
        meta["labels"][REVISION] = found["status"]["updateRevision"]
        (own,) = template["spec"]["containers"]
        # What a pod was given since it was made stays.
        spec = pod["spec"] if pod else {"containers": [{name: own[name] for name in ("name", "resources")}]}
        going = "deletionTimestamp" in claim["metadata"]
        lost = claim.get("status", {}).get("phase") == "Lost"
        bound = claim.get("status", {}).get("phase") == "Bound"
        unmade = self.unbound or not self.disks.provisions(claim, self.objects.get(snapshots, {}))
        if unmade or ("volumeName" in claim["spec"] and not bound) or lost or going:
            words = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."
            if going:
                words = f'persistentvolumeclaim "{claim["metadata"]["name"]}" is being deleted.'
            waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
            self.put(pods, {"metadata": meta, "spec": spec, "status": {"phase": "Pending", "conditions": [waits]}})
            return
        self.put(claims, self.disks.bound(claim))
        missing = self._missing(namespace, template["spec"]["containers"][0])
        # One that has crashed starts again in the same pod.
        restarts = 4 if pod is not None and self._reported.get(pod["metadata"]["uid"]) else 0
        container: dict[str, Any] = {"ready": not crashing, "restartCount": restarts}
        container["state"] = {"running": {"startedAt": "x"}}
        if missing:
            waits = {"reason": "CreateContainerConfigError", "message": f'secret "{missing}" not found'}
            container |= {"ready": False, "state": {"waiting": waits}}
            # A kubelet looks again.
            asyncio.get_running_loop().call_later(0.05, self.control, namespace, name)
        elif crashing:
            ended = {"terminated": {"exitCode": 3, "reason": "Error", "message": self._last_words(namespace, template)}}
            container |= {"restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended}
        value = str(container["ready"])
        conditions = [{"type": one, "status": value} for one in ("Ready", "ContainersReady")]
        conditions.append({"type": "PodScheduled", "status": "True"})
        has = spec["containers"][0]["resources"]
        containers = [{"name": own["name"], "resources": has} | container]
        told = {"phase": "Running", "conditions": conditions, "containerStatuses": containers}
        # A kubelet says from 1.34 on which generation of the pod it has seen.
        told["observedGeneration"] = pod["metadata"]["generation"] if pod else 1
        started = self.put(pods, {"metadata": meta, "spec": spec, "status": told})
        if not missing:
            env = self._env(namespace, template["spec"]["containers"][0])
            generation = meta.get("annotations", {}).get("sandbox.fullstackagent.io/generation", "")
            self.starts.append((generation, env))
            self._reported[started["metadata"]["uid"]] = crashing

    def _claim(self, claims: str, stateful_set: dict[str, Any], ordinal: int) -> dict[str, Any]:
        """The claim of a pod, made from the template where there is none."""
        (claim,) = copied(stateful_set["spec"]["volumeClaimTemplates"])
        name = f"{claim['metadata']['name']}-{stateful_set['metadata']['name']}-{ordinal}"
        claim["metadata"] |= {"name": name, "finalizers": [PROTECTION]}
        return self.objects.get(claims, {}).get(name) or self.put(claims, claim)

    def _last_words(self, namespace: str, template: dict[str, Any]) -> str:
        """What a crashing process says last, where its log is asked for."""
        container = template["spec"]["containers"][0]
        if container.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            return ""
        return f"cannot connect with {self._env(namespace, container).get('TOKEN', '')}\n"

    def env(self, pod: dict[str, Any]) -> dict[str, str]:
        """The environment of the container of a pod."""
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"].removesuffix("-0")
        made_by = self.objects.get(f"apis/apps/v1/namespaces/{namespace}/statefulsets", {}).get(name)
        spec = pod["spec"] if made_by is None else made_by["spec"]["template"]["spec"]
        return self._env(namespace, spec["containers"][0])

    def claim_of(self, pod: dict[str, Any]) -> str:
        """The uid of the claim that a pod mounts; empty if it mounts none."""
        namespace, name = pod["metadata"]["namespace"], f"vn-homevn-agent-{pod['metadata']['name']}"
        for volume in pod["spec"].get("volumes", []):
            name = volume.get("persistentVolumeClaim", {}).get("claimName", name)
        claim = self.objects.get(f"api/v1/namespaces/{namespace}/persistentvolumeclaims", {}).get(name)
        return "" if claim is None else str(claim["metadata"]["uid"])

    def _env(self, namespace: str, container: dict[str, Any]) -> dict[str, str]:
        secrets = self.objects.get(f"api/v1/namespaces/{namespace}/secrets", {})
        env: dict[str, str] = {}
        for source in container.get("envFrom", []):
            env |= secrets[source["secretRef"]["name"]].get("data", {})
        plain = {one["name"]: one.get("value", "") for one in container.get("env", []) if one["name"] != "PORT"}
        return {name: base64.b64decode(value).decode() for name, value in env.items()} | plain

    def _missing(self, namespace: str, container: dict[str, Any]) -> str:
        """The Secret of a container that is not there; empty if all are."""
        secrets = self.objects.get(f"api/v1/namespaces/{namespace}/secrets", {})
        named = [source["secretRef"]["name"] for source in container.get("envFrom", [])]
        return next((one for one in named if one not in secrets), "")

    def restart_container(self, namespace: str, name: str, reason: str = "Error") -> None:
        """Ends the container of a pod and starts it again at once, as a kubelet does the first time."""
        pods = f"api/v1/namespaces/{namespace}/pods"
        pod = copied(self.objects[pods][name])
        self.kubelet.kill(self.kubelet.container(pod))
        (container,) = pod["status"]["containerStatuses"]
        container["restartCount"] += 1
        container["lastState"] = {"terminated": {"exitCode": 137, "reason": reason}}
        self.put(pods, pod)


async def decoded(request: web.Request) -> dict[str, Any]:
    """Returns the body of a request."""
    return cast(dict[str, Any], msgspec.json.decode(await request.read()))


def answer(value: dict[str, Any], code: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Returns an answer in JSON."""
    return web.Response(body=msgspec.json.encode(value), status=code, headers=headers, content_type="application/json")


def copied(value: T) -> T:
    """A copy of what JSON can hold, many times faster than `copy.deepcopy`."""
    return cast(T, marshal.loads(marshal.dumps(value)))


def status(code: int, message: str, **headers: str) -> web.Response:
    """A Status answer."""
    body = {"kind": "Status", "status": "Failure", "message": message, "code": code}
    return answer(body, code, headers)


def forbidden(verb: str, resource: str, namespace: str) -> web.Response:
    """RBAC's refusal."""
    words = f'{resource} is forbidden: User "u" cannot {verb} resource "{resource}" in the namespace "{namespace}"'
    return status(403, words)


def refusal(collection: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    """The API server's words where an update changes fields that are fixed when the object is made."""
    # What our apply says of a claim never changes: another size is merged into it.
    if collection.endswith("persistentvolumeclaims") and before["spec"] != after["spec"]:
        return (
            "spec: Forbidden: spec is immutable after creation except resources.requests and "
            "volumeAttributesClassName for bound claims"
        )
    if collection.endswith("secrets") and before.get("immutable"):
        for field in ("immutable", "data"):
            # What is stored empty is read as missing.
            if (before.get(field) or None) != after.get(field):
                return f"{field}: Forbidden: field is immutable when `immutable` is set"
    fixed = ("serviceName", "selector", "podManagementPolicy", "volumeClaimTemplates")
    changed = any(before["spec"].get(one) != after["spec"].get(one) for one in fixed if "spec" in before)
    if collection.endswith("statefulsets") and changed:
        return "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'template' are forbidden"
    return ""


def has_node(pod: dict[str, Any]) -> bool:
    return any((one["type"], one["status"]) == ("PodScheduled", "True") for one in pod["status"].get("conditions", []))


def made_from(pod: dict[str, Any]) -> str:
    """The template of a pod; empty for one that a test made."""
    return str(pod["metadata"].get("labels", {}).get(REVISION, ""))


def is_ready(pod: dict[str, Any]) -> bool:
    return any((one["type"], one["status"]) == ("Ready", "True") for one in pod["status"]["conditions"])


def chosen(request: web.Request, value: dict[str, Any]) -> bool:
    """Whether labels are there and, where a value is asked for, have that; and whether an event is about the object asked for."""
    fields = dict(one.split("=", 1) for one in request.query.get("fieldSelector", "").split(",") if "=" in one)
    if (about := fields.get("involvedObject.uid")) is not None:
        told = (value["involvedObject"]["uid"], value["reason"])
        return told == (about, fields.get("reason", value["reason"]))
    found = value["metadata"].get("labels", {})
    wanted = (one.partition("=") for one in request.query.get("labelSelector", "").split(",") if one)
    return all(found.get(name) == asked if equals else name in found for name, equals, asked in wanted)


def shown(request: web.Request, value: dict[str, Any]) -> dict[str, Any]:
    """The whole object or, where that was asked for, its metadata."""
    return {"metadata": value["metadata"]} if "PartialObjectMetadata" in request.headers["Accept"] else value


def managed(manager: str, paths: set[tuple[str, ...]]) -> dict[str, Any]:
    """An entry of managedFields."""
    fields: dict[str, Any] = {}
    for path in sorted(paths):
        at = fields
        for step in path:
            at = at.setdefault(step if step.startswith("k:") else f"f:{step}", {})
    operation = "Apply" if manager == OURS else "Update"
    return {"manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": fields}


def paths(fields: dict[str, Any]) -> set[tuple[str, ...]]:
    """The fields of an entry of managedFields."""
    found: set[tuple[str, ...]] = set()
    for name, below in fields.items():
        step = name.removeprefix("f:")
        found |= {(step, *rest) for rest in paths(below)} if below else {(step,)}
    return found


SELECTOR = ("spec", "selector")
"""A selector is owned and replaced as a whole."""
KEYS = {"containers": ("name",), "env": ("name",), "volumeMounts": ("mountPath",), "ports": ("containerPort", "port")}
"""Lists whose items are merged and owned each by itself, by what identifies them."""


def items(name: str, value: Any) -> dict[str, Any] | None:
    """The items of such a list by their steps in a path; None for any other value."""
    if not isinstance(value, list) or name not in KEYS:
        return None
    found = {}
    for one in value:
        key = next((key for key in KEYS[name] if key in one), None)
        if key is None:
            return None
        found[f'k:{{"{key}":{one[key]!r}}}'] = one
    return found


def take(value: dict[str, Any], path: tuple[str, ...]) -> None:
    """Removes a field, and with the last field of an item that item."""
    name, *rest = path
    if not rest:
        value.pop(name, None)
    elif (found := items(name, value.get(name))) is not None:
        item = found.get(rest[0])
        if item is not None:
            copy = copied(item)
            take(copy, tuple(rest[1:]))
            at = value[name].index(item)
            value[name][at : at + 1] = [copy] if any(key in copy for key in KEYS[name]) else []
            if not value[name]:
                del value[name]
    elif isinstance(value.get(name), dict):
        take(value[name], tuple(rest))
        if not value[name] and name != "metadata":
            del value[name]


def leaves(value: dict[str, Any]) -> Leaves:
    """Every field that somebody can own, lists without keys as wholes."""
    found: Leaves = {}
    _add_leaves(value, (), found)
    return found


def _add_leaves(value: dict[str, Any], at: tuple[str, ...], found: Leaves) -> None:
    for name, one in value.items():
        path = (*at, name)
        if keyed := items(name, one):
            for step, item in keyed.items():
                _add_leaves(item, (*path, step), found)
        elif isinstance(one, dict) and path not in UNOWNED and path != SELECTOR:
            _add_leaves(one, path, found)
        elif path not in UNOWNED:
            found[path] = one


def merge(into: dict[str, Any], what: dict[str, Any]) -> None:
    for name, one in what.items():
        said, known = items(name, one), items(name, into.get(name))
        if said and known:
            for step, item in said.items():
                merge(known.setdefault(step, {}), item)
            # What is said comes first, in its order.
            into[name] = [known[step] for step in {**said, **known}]
        elif isinstance(one, dict) and isinstance(into.get(name), dict) and name != SELECTOR[-1]:
            merge(into[name], one)
        else:
            into[name] = one


def without_version(value: dict[str, Any]) -> dict[str, Any]:
    return value | {"metadata": {**value["metadata"], "resourceVersion": ""}}
