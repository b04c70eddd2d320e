"""Kills the service at a write to the cluster that a test chooses."""

import asyncio

from aiohttp import web

from tests.support.scripted_api import ScriptedApi, status
from tests.support.service import Service


def _writes(request: web.Request) -> bool:
    """Whether a call changes an object of a namespace: questions are POST as well."""
    return request.method in ("PATCH", "DELETE") or (request.method == "POST" and "/namespaces/" in request.path)


class Killer:
    """Kills the service, and starts it again, when it makes the write that was said, counted from 1.

    That write has taken effect by then and gets no answer; with 0 the first one is made in vain. `stood` has the uids of
    a sandbox's objects as they were left.
    """

    def __init__(self, api: ScriptedApi, service: Service) -> None:
        self._api, self._service = api, service
        self._left: int | None = None
        self.stood: dict[str, str] = {}
        self._starting: asyncio.Task[Service] | None = None
        api.lasting.append((_writes, self._write))

    def arm(self, position: int) -> None:
        self._left = position

    async def _write(self, request: web.Request) -> web.StreamResponse | None:
        if self._left is None:
            return None
        if self._left > 1:
            self._left -= 1
            return None
        answer = await self._api.obey(request) if self._left else status(500, "in vain")
        self._left = None
        self._service.kill()
        self.stood = self.uids()
        self._starting = asyncio.create_task(asyncio.to_thread(self._service.start))
        return answer

    async def struck(self) -> bool:
        """Whether it came to that, once the service is back; it is armed no more."""
        struck, self._left = self._left is None, None
        if self._starting is not None:
            await self._starting
        return struck

    def uids(self) -> dict[str, str]:
        """All objects but pods: where each is, and its uid."""
        return {
            f"{collection}/{name}": value["metadata"]["uid"]
            for collection, found in self._api.objects.items()
            for name, value in found.items()
            if not collection.endswith("pods")
        }
