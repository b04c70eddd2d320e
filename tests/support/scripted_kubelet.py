"""What the scripted API server answers to `pods/exec`: real processes, in a directory for each start of a container.

The connection is accepted before anything is started, as a real API server does, and a failure to start is told as a status.
"""

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web
from sandbox_server.engines.kubernetes import pods
from sandbox_server.engines.local import entered

CHANNEL_CLOSE = b"\xff"
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
SUCCESS = {"metadata": {}, "status": "Success"}
# containerd 2 over runc, as a kubelet of 1.36 hands it on.
NO_SHELL = (
    "Internal error occurred: error executing command in container: failed to exec in container: failed to start exec "
    '"e1": OCI runtime exec failed: exec failed: unable to start container process: exec: "/bin/sh": stat /bin/sh: no such '
    "file or directory: unknown"
)


def failed(message: str) -> dict[str, Any]:
    return {"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500}


class Kubelet:
    """`protocols` are those of the API server. `shell`: whether the images have one. `refusal`: a status to answer with.

    `cut_at`: the connection of the next program that prints more is cut after so many bytes; 0: none is.
    `gone`: connections to a container that has ended stay open and silent, as they may when its node is lost.
    """

    def __init__(self) -> None:
        self.folder = Path()
        self.protocols = PROTOCOLS
        self.shell = True
        self.refusal = 0
        self.gone = False
        self.cut_at = 0
        self.commands: list[list[str]] = []
        self.before_start = lambda: None

    async def exec(
        self, request: web.Request, pod: dict[str, Any], env: dict[str, str], disk: str
    ) -> web.StreamResponse:
        """Runs the command of a request in a pod. `disk`: the uid of the claim that is its home; empty if it has none."""
        if self.refusal:
            return web.json_response({"kind": "Status", "code": self.refusal}, status=self.refusal)
        words = request.query.getall("command")
        self.commands.append(words)
        assert request.query["container"] in [one["name"] for one in pod["spec"]["containers"]]
        socket = web.WebSocketResponse(protocols=self.protocols)
        await socket.prepare(request)
        await socket.send_bytes(b"\1")
        self.before_start()
        folder = self.container(pod)
        if folder is None:
            await self._status(socket, failed('unable to upgrade connection: container not found ("sandbox")'))
        elif not self.shell:
            await self._status(socket, failed(NO_SHELL))
        else:
            home = self.disk(disk) if disk else self.home(pod)
            home.mkdir(parents=True, exist_ok=True)
            await self._run(socket, words, folder, env | {"HOME": str(home)})
        return socket

    def container(self, pod: dict[str, Any]) -> Path | None:
        """The directory of the container of a pod as it now runs; None if it does not."""
        (status,) = pod["status"].get("containerStatuses") or [{}]
        if "running" not in status.get("state", {}):
            return None
        made = self.folder / "containers" / f"{pod['metadata']['uid']}.{status['restartCount']}"
        made.mkdir(parents=True, exist_ok=True)
        return made

    def home(self, pod: dict[str, Any]) -> Path:
        """The home of a pod that runs and mounts no claim."""
        container = self.container(pod)
        assert container is not None
        mounts = [one["mountPath"] for one in pod["spec"]["containers"][0].get("volumeMounts", ())]
        # An emptyDir is there for each container that the pod starts.
        made = self.folder / "volumes" / pod["metadata"]["uid"] if pods.HOME in mounts else container / "home"
        made.mkdir(parents=True, exist_ok=True)
        return made

    def disk(self, claim: str) -> Path:
        """The home on the disk of the claim with that uid."""
        return self.folder / "disks" / claim

    def kill(self, folder: Path | None) -> None:
        """Kills every process of a container that has ended."""
        if folder is not None and self.commands:
            entered.kill(folder / "access")

    def end(self) -> None:
        """Kills what tests have left running."""
        for folder in (self.folder / "containers").glob("*"):
            self.kill(folder)

    async def _run(self, socket: web.WebSocketResponse, words: list[str], folder: Path, env: dict[str, str]) -> None:
        home = env["HOME"]
        # No file system of its own: the path of the home is another.
        words = [home if word == pods.HOME else word for word in words]
        own = {"PATH": os.environ["PATH"], "SANDBOX_ACCESS": str(folder / "access")}
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            *words, stdin=pipe, stdout=pipe, cwd=home, env=env | own, start_new_session=True
        )
        printing = asyncio.create_task(self._print(socket, child))
        taken: Any = child.stdin
        try:
            async for message in socket:
                assert message.type is WSMsgType.BINARY
                with contextlib.suppress(OSError):
                    if message.data[:1] == b"\0":
                        taken.write(message.data[1:])
                        await taken.drain()
                    elif message.data[:1] == CHANNEL_CLOSE:
                        assert socket.ws_protocol == PROTOCOLS[0]
                        taken.close()
            # The process goes on when its connection is cut, with its input closed.
            taken.close()
            await printing
        finally:
            # The server may stop before, and what the process has started may hold its output open.
            printing.cancel()
            transport: Any = child._transport  # type: ignore[attr-defined]
            transport.close()
            await child.wait()

    async def _print(self, socket: web.WebSocketResponse, child: asyncio.subprocess.Process) -> None:
        printed: Any = child.stdout
        told = 0
        with contextlib.suppress(OSError):
            while data := await printed.read(32 * 1024):
                await socket.send_bytes(b"\1" + data)
                told += len(data)
                if 0 < self.cut_at < told:
                    self.cut_at = 0
                    await socket.close()
                    return
        code = await child.wait()
        if self.gone:
            return
        cause = {"reason": "ExitCode", "message": str(code)}
        message = f"command terminated with non-zero exit code: exit status {code}"
        status = failed(message) | {"reason": "NonZeroExitCode", "details": {"causes": [cause]}}
        with contextlib.suppress(OSError):
            await self._status(socket, SUCCESS if code == 0 else status)

    async def _status(self, socket: web.WebSocketResponse, status: dict[str, Any]) -> None:
        await socket.send_bytes(b"\3" + json.dumps(status).encode())
        await socket.close()
