"""What a scripted API server answers about itself, about who calls it, and about what the caller may do."""

import dataclasses
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from aiohttp import web

USER = "system:serviceaccount:sandbox-system:sandbox-service"


@dataclasses.dataclass
class ScriptedCluster:
    """`denied` has what the service may not do in any namespace: a resource with its group, and a verb.

    `ahead` is how far the clock is ahead. `objects` has the objects outside of namespaces by their plural; a plural that
    is missing may not be listed. `labels` are those of each namespace. `served` are resources of the first API group.
    `contents` has the drivers of VolumeSnapshotContents by their name; one that is missing may not be got.
    """

    denied: set[tuple[str, str]] = dataclasses.field(default_factory=lambda: {("pods", "create")})
    ahead: timedelta = timedelta()
    objects: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    contents: dict[str, str] = dataclasses.field(default_factory=dict)
    served: tuple[str, ...] = ("pods", "pods/resize")

    async def answer(self, request: web.Request) -> web.Response:
        answered = await self._answer(request)
        answered.headers["Date"] = format_datetime(datetime.now(UTC) + self.ahead, usegmt=True)
        return answered

    async def _answer(self, request: web.Request) -> web.Response:
        plural = request.path.rpartition("/")[2]
        match plural:
            case "version":
                return web.json_response({"gitVersion": "v1.36.3"})
            case "v1":
                return web.json_response({"resources": [{"name": one} for one in self.served]})
            case "selfsubjectreviews":
                return web.json_response({"status": {"userInfo": {"username": USER}}}, status=201)
            case "selfsubjectaccessreviews":
                what = (await request.json())["spec"]["resourceAttributes"]
                resource = "/".join(part for part in (what["resource"], what["subresource"]) if part)
                name = ".".join(part for part in (resource, what["group"]) if part)
                return web.json_response({"status": {"allowed": (name, what["verb"]) not in self.denied}}, status=201)
        if "/volumesnapshotcontents/" in request.path and plural in self.contents:
            return web.json_response({"spec": {"driver": self.contents[plural]}})
        if plural not in self.objects:
            words = f'{plural} is forbidden: User "u" cannot list resource "{plural}" at the cluster scope'
            return web.json_response({"message": words, "code": 403}, status=403)
        return web.json_response({"items": self.objects[plural]})
