"""Containers with real processes, for a simulated node that has them: the streaming part of a kubelet and its runtime.

Both are a process of the control plane's binary (`controlplane/kubelet.go`). The API server reaches it, so that pods/exec,
pods/log and pods/portforward are real. A container is isolated as a sandbox of the local engine is, and has its disk at
/home/agent, a temporary folder, process ids and a network of its own. Its image is this machine's programs.
"""

import asyncio
import base64
import contextlib
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp
from sandbox_server.engines.local import launch

from tests.kubernetes import enter
from tests.kubernetes.cluster import Cluster
from tests.support.waiting import PATIENCE

ENTER = (sys.executable, "-I", "-S", str(Path(enter.__file__)))
READY_WITHIN = 30.0 * PATIENCE
USER = "1001"
"""The user and group in containers. Outside it is the user of the tests, so that it may read and write its disk."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The search path of an image."""
IDLE = ("/bin/sh", "-c", 'trap "exit 0" TERM; echo "$HOSTNAME runs"; while :; do sleep 3600 & wait $!; done')
"""The command of an image, which a container has that names none."""


class StartError(Exception):
    """A container cannot be started; the text is the runtime's."""


class Containers:
    """Use as an async context manager. One at a time for a control plane."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.port = cluster.kubelet_port

    async def __aenter__(self) -> Self:
        if not launch.program():
            raise RuntimeError("containers with real processes need bubblewrap, which does not run here")
        # The path of a socket is limited to 107 characters, and several follow each other.
        self._folder = Path(tempfile.mkdtemp(prefix="kubelet-"))
        for name in ("ca.crt", "kubelet.crt", "kubelet.key"):
            shutil.copy(self._cluster.folder / name, self._folder)
        self._cluster.run("kubelet", str(self._folder), f"127.0.0.1:{self.port}", *ENTER)
        path = str(self._folder / "runtime.sock")
        self._session = aiohttp.ClientSession("http://runtime", connector=aiohttp.UnixConnector(path, limit=0))
        async with asyncio.timeout(READY_WITHIN):
            while not Path(path).exists():
                await asyncio.sleep(0.02)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        self._cluster.kill("kubelet")
        shutil.rmtree(self._folder, ignore_errors=True)

    def logs(self, pod: dict[str, Any]) -> Path:
        """The folder with a file for each start of the sandbox's container of a pod."""
        meta = pod["metadata"]
        return self._folder / "pods" / f"{meta['namespace']}_{meta['name']}_{meta['uid']}" / "sandbox"

    async def start(
        self, pod: dict[str, Any], container: dict[str, Any], env: Mapping[str, str], home: Path, attempt: int
    ) -> str:
        """Starts a container and returns the id of this start. Raises `StartError`."""
        meta = pod["metadata"]
        env = {"PATH": PATH, "HOSTNAME": meta["name"], "HOME": launch.HOME, **env}
        command = [expanded(word, env) for word in (*container.get("command", []), *container.get("args", []))]
        command = command or list(IDLE)
        home.mkdir(parents=True, exist_ok=True)
        check(command[0], env["PATH"], home)
        made = launch.isolated(command, env, home, self._cluster.folder)
        shared = bool(pod["spec"].get("shareProcessNamespace"))
        first_process = [] if shared else ["--as-pid-1"]
        alone = ["--unshare-user", "--unshare-net", "--uid", USER, "--gid", USER, "--die-with-parent"]
        body = {
            "namespace": meta["namespace"],
            "pod": meta["name"],
            "uid": meta["uid"],
            "name": container["name"],
            "attempt": attempt,
            "words": [made.words[0], *first_process, *alone, "--hostname", meta["name"], *made.words[1:]],
            "options": base64.b64encode(made.options).decode(),
            "env": env,
            "folder": launch.HOME,
            "shared": shared,
        }
        return str((await self._call("POST", "/containers", body))["id"])

    async def ended(self, container: str) -> int:
        """Returns the exit code of a container once it has ended."""
        return int((await self._call("GET", f"/containers/{container}"))["code"])

    async def stop(self, container: str, grace: float) -> int:
        """Ends a container as a kubelet does. Returns its exit code."""
        await self._call("POST", f"/containers/{container}/signal/TERM")
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self.ended(container), grace)
        await self._call("POST", f"/containers/{container}/signal/KILL")
        return await self.ended(container)

    async def remove(self, uid: str) -> None:
        """Kills what runs of a pod, and forgets its logs."""
        await self._call("DELETE", f"/pods/{uid}")

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.request(method, path, json=body, timeout=timeout) as answer:
            if answer.status >= 400:
                raise StartError((await answer.text()).strip())
            return await answer.json(content_type=None)


def expanded(word: str, env: Mapping[str, str]) -> str:
    """A word of a command in which a kubelet has replaced `$(NAME)`, and `$$` by `$`."""
    return re.sub(r"\$\$|\$\(([^)]*)\)", lambda found: "$" if found[1] is None else env.get(found[1], found[0]), word)


def check(program: str, path: str, home: Path) -> None:
    """Raises `StartError` in the words of runc if the container has no such program."""
    place = f"{home}{program.removeprefix(launch.HOME)}" if program.startswith(f"{launch.HOME}/") else program
    if shutil.which(place, path=path) is None:
        said = f"stat {program}: no such file or directory" if "/" in program else "executable file not found in $PATH"
        raise StartError(
            "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
            f'unable to start container process: error during container init: exec: "{program}": {said}'
        )
