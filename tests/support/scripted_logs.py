"""What the scripted API server answers to `pods/log`, as a kubelet reads the files of its container runtime.

After cri-client/pkg/logs/logs.go and kubelet/kubelet_pods.go of 1.36.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from aiohttp import web

PART = 16 * 1024
"""Bytes of an entry of a container runtime."""


class Entry(NamedTuple):
    time: int
    data: bytes
    """Without the end of the line if it is a part."""


class Container:
    """The log of one start of a container: its present file, and the output that is no whole entry yet."""

    def __init__(self) -> None:
        self.file: list[Entry] = []
        self.rest = b""
        self.latest = 0

    def print(self, data: bytes, at: int | None) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            while len(line) > PART:
                self._add(line[:PART], at)
                line = line[PART:]
            self._add(line + b"\n", at)
        while len(self.rest) >= PART:
            self._add(self.rest[:PART], at)
            self.rest = self.rest[PART:]

    def end(self) -> None:
        """Writes what is left, as a runtime does when the container has ended."""
        if self.rest:
            self._add(self.rest, None)
            self.rest = b""

    def _add(self, data: bytes, at: int | None) -> None:
        self.latest = max(time.time_ns(), self.latest + 1) if at is None else at
        self.file.append(Entry(self.latest, data))


class Logs:
    """The logs of all containers, by the pod's uid and how often its container was restarted.

    `cut_after`: bytes after which the next answers are cut off, one by one.
    """

    def __init__(self) -> None:
        self.containers: dict[tuple[str, int], Container] = {}
        self.cut_after: list[int] = []
        self.asked: list[dict[str, str]] = []

    def of(self, pod: dict[str, Any], before: int = 0) -> Container:
        (status,) = pod["status"]["containerStatuses"]
        return self.containers.setdefault((pod["metadata"]["uid"], status["restartCount"] - before), Container())

    def rotate(self, pod: dict[str, Any]) -> None:
        """Begins a new file; the former one is no longer read but by who has it open."""
        self.of(pod).file = []

    async def answer(
        self, request: web.Request, pod: dict[str, Any], latest: Callable[[], dict[str, Any] | None]
    ) -> web.StreamResponse:
        """Answers with the log of a pod. `latest` returns the pod as it is."""
        self.asked.append(dict(request.query))
        assert request.query["container"] == "sandbox"
        (status,) = pod["status"].get("containerStatuses") or [{}]
        state, last = status.get("state", {}), status.get("lastState", {})
        previous = request.query.get("previous") == "true"
        if previous and "terminated" not in last:
            return refused('previous terminated container "sandbox" in pod "p" not found')
        if not state or ("waiting" in state and "terminated" not in last):
            return refused('container "sandbox" in pod "p" is waiting to start: ContainerCreating')
        of_last = previous and "waiting" not in state
        container = self.of(pod, 1 if of_last else 0)
        key = pod["metadata"]["uid"], status["restartCount"]

        def running() -> bool:
            found = latest()
            if of_last or found is None or found["metadata"]["uid"] != key[0]:
                return False
            (now,) = found["status"]["containerStatuses"]
            return now["restartCount"] == key[1] and "running" in now["state"]

        answer = web.StreamResponse()
        answer.content_type = "text/plain"
        await answer.prepare(request)
        with contextlib.suppress(ConnectionResetError):
            await _Reader(request, answer, container, running, self.cut_after).run()
        return answer


class _Reader:
    def __init__(
        self,
        request: web.Request,
        answer: web.StreamResponse,
        container: Container,
        running: Callable[[], bool],
        cut_after: list[int],
    ) -> None:
        self._request = request
        self._answer = answer
        self._container = container
        self._running = running
        query = request.query
        self._follow = query.get("follow") == "true"
        self._times = query.get("timestamps") == "true"
        self._tail = int(query["tailLines"]) if "tailLines" in query else None
        since = query.get("sinceTime")
        # The API server hands on whole seconds.
        self._since = int(datetime.fromisoformat(since).timestamp()) * 10**9 if since else 0
        self._cut_after = cut_after.pop(0) if cut_after else None

    async def run(self) -> None:
        file, at, new_line = self._container.file, 0, True
        if self._tail is not None:
            at = max(0, len(file) - self._tail)
        found = True
        while True:
            if at == len(file):
                if not self._follow or not found:
                    return
                if self._container.file is not file:
                    file, at = self._container.file, 0
                    continue
                found = self._running()
                if found:
                    await asyncio.sleep(0.005)
                else:
                    self._container.end()
                continue
            entry = file[at]
            at += 1
            if entry.time >= self._since:
                prefix = stamp(entry.time) if self._times and new_line else b""
                await self._write(prefix + entry.data)
            new_line = entry.data.endswith(b"\n")

    async def _write(self, data: bytes) -> None:
        if self._cut_after is not None:
            data, self._cut_after = data[: self._cut_after], self._cut_after - len(data)
            await self._answer.write(data)
            if self._cut_after <= 0:
                transport: Any = self._request.transport
                transport.abort()
                raise ConnectionResetError
            return
        await self._answer.write(data)


def stamp(at: int) -> bytes:
    """A time as Go's RFC3339NanoFixed writes it."""
    second = datetime.fromtimestamp(at // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{second}.{at % 10**9:09}Z ".encode()


def refused(message: str) -> web.Response:
    """The kubelet's 400."""
    body = {"kind": "Status", "status": "Failure", "reason": "BadRequest", "code": 400, "message": message}
    return web.json_response(body, status=400)
