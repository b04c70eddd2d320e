"""The simulated node with real processes obeys the contract of a kubelet, as kubectl sees it through the API server."""

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import struct
import sys
import termios
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.kubernetes.cluster import ADMIN, Cluster
from tests.kubernetes.ground import make_namespace
from tests.kubernetes.node import Node
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.processes

POD = "work-0"
PRINTS = [
    "/bin/sh",
    "-c",
    'trap "exit 7" TERM; echo one; sleep 0.3; echo two >&2; sleep 0.3; echo three; while :; do sleep 60 & wait $!; done',
]
"""Ends with 7 when it is asked to."""
FAILED = (
    "failed to exec in container: failed to start exec: OCI runtime exec failed: exec failed: unable to start container"
)


class Pod:
    """A pod of a sandbox's shape, and kubectl as its administrator."""

    def __init__(self, cluster: Cluster, namespace: str, folder: Path) -> None:
        self._cluster = cluster
        self.namespace = namespace
        self._config = cluster.kubeconfig(folder / "kubeconfig", ADMIN)
        self._pods = f"/api/v1/namespaces/{namespace}/pods"

    async def create(self, *, shared: bool = False, **container: Any) -> None:
        """Makes the pod with its disk, and returns when it runs."""
        claim = {
            "metadata": {"name": "disk"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
        security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
        own = {
            "name": "sandbox",
            "image": "registry.example/sandbox:1",
            "volumeMounts": [{"name": "disk", "mountPath": "/home/agent", "subPath": "home"}],
            "env": [{"name": "GREETING", "value": "hello"}],
            "securityContext": security,
        }
        spec = {
            "terminationGracePeriodSeconds": 2,
            "shareProcessNamespace": shared,
            "securityContext": {"runAsUser": 1001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [own | container],
            "volumes": [{"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}}],
        }
        claims = f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims"
        await asyncio.to_thread(self._cluster.request, "POST", claims, claim)
        await asyncio.to_thread(self._cluster.request, "POST", self._pods, {"metadata": {"name": POD}, "spec": spec})

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Returns the status of the container once it holds."""
        async with asyncio.timeout(30 * PATIENCE):
            while True:
                pod = await asyncio.to_thread(self._cluster.request, "GET", f"{self._pods}/{POD}")
                for status in pod.get("status", {}).get("containerStatuses", []):
                    if holds(status):
                        return dict(status)
                await asyncio.sleep(0.05)

    async def started(self, *, shared: bool = False, **container: Any) -> "Pod":
        await self.create(shared=shared, **container)
        await self.until(lambda status: status["ready"])
        return self

    async def begin(self, *words: str, **how: Any) -> asyncio.subprocess.Process:
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
        command = [
            str(self._cluster.binary),
            "kubectl",
            f"--kubeconfig={self._config}",
            f"--namespace={self.namespace}",
        ]
        return await asyncio.create_subprocess_exec(*command, *words, **(pipes | how))

    async def kubectl(self, *words: str, given: bytes = b"") -> tuple[int | None, bytes, bytes]:
        """Returns the exit code, and what was printed on either output."""
        process = await self.begin(*words)
        async with asyncio.timeout(30 * PATIENCE):
            out, complaints = await process.communicate(given)
        return process.returncode, out, complaints

    async def sh(self, script: str) -> str:
        """Runs a script in the container and returns what it prints. Raises AssertionError if it fails."""
        code, out, complaints = await self.kubectl("exec", POD, "--", "sh", "-c", script)
        assert code == 0, complaints
        return out.decode()

    async def delete(self) -> None:
        await asyncio.to_thread(self._cluster.request, "DELETE", f"{self._pods}/{POD}")

    async def gone(self) -> None:
        async with asyncio.timeout(30 * PATIENCE):
            while await asyncio.to_thread(lambda: self._cluster.request("GET", self._pods)["items"]):
                await asyncio.sleep(0.05)


@pytest.fixture
async def pod(cluster: Cluster, node: Node, tmp_path: Path) -> AsyncIterator[Pod]:
    made = Pod(cluster, await asyncio.to_thread(make_namespace, cluster), tmp_path)
    yield made
    with contextlib.suppress(OSError):
        await made.delete()
    await made.gone()


async def test_a_command_has_its_streams_its_exit_code_and_a_container_of_its_own(pod: Pod) -> None:
    await pod.started()
    script = 'read line; echo "$line $GREETING"; cat; echo complaint >&2; exit 3'
    code, out, complaints = await pod.kubectl("exec", "-i", POD, "--", "sh", "-c", script, given=b"first\nlast")
    assert (code, out) == (3, b"first hello\nlast")
    assert complaints == b"complaint\ncommand terminated with exit code 3\n"
    assert (await pod.sh("id -u; pwd; ls -A /tmp; hostname; cut -d' ' -f4 /proc/$$/stat")).split() == [
        "1001",
        "/home/agent",
        POD,
        "0",
    ]
    code, _, _ = await pod.kubectl("exec", POD, "--", "sh", "-c", "kill -9 $$")
    assert code == 137


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("nosuch", 'exec: "nosuch": executable file not found in $PATH'),
        ("/no/such", 'exec: "/no/such": stat /no/such: no such file or directory'),
        ("/etc/passwd", 'exec: "/etc/passwd": permission denied'),
    ],
)
async def test_a_program_that_cannot_run_is_the_error_of_the_runtime(pod: Pod, program: str, reason: str) -> None:
    await pod.started()
    code, _, complaints = await pod.kubectl("exec", POD, "--", program)
    assert code == 1
    assert f"{FAILED} process: {reason}" in complaints.decode()


async def test_a_terminal_has_its_size_and_controls_its_processes(pod: Pod) -> None:
    await pod.started()
    own, other = pty.openpty()
    fcntl.ioctl(own, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 44, 0, 0))
    process = await pod.begin(
        "exec", "-it", POD, "--", "bash", "--norc", stdin=other, stdout=other, stderr=other, start_new_session=True
    )
    os.close(other)
    printed = b""

    async def says(words: bytes) -> None:
        nonlocal printed
        async with asyncio.timeout(20 * PATIENCE):
            while words not in printed:
                printed += await asyncio.to_thread(os.read, own, 4096)
        printed = printed.partition(words)[2]

    os.write(own, b"stty size; tty; echo $TERM\n")
    await says(b"33 44\r\n/dev/pts/0\r\nxterm\r\n")
    fcntl.ioctl(own, termios.TIOCSWINSZ, struct.pack("HHHH", 55, 66, 0, 0))
    process.send_signal(signal.SIGWINCH)
    # The new size travels on a channel of its own. From its own words on the command has the terminal. Before that Ctrl-C would end the wait of the shell alone.
    os.write(own, b"until stty size | grep '55 66'; do sleep 0.1; done; sh -c 'echo sleeps; exec sleep 100'\n")
    await says(b"55 66\r\nsleeps\r\n")
    os.write(own, b"\x03")
    os.write(own, b"echo interrupted=$?\n")
    await says(b"interrupted=130\r\n")
    os.write(own, b"exit 4\n")
    async with asyncio.timeout(20 * PATIENCE):
        assert await process.wait() == 4
    os.close(own)


async def test_a_program_goes_on_when_its_connection_is_cut(pod: Pod) -> None:
    await pod.started()
    process = await pod.begin("exec", POD, "--", "sh", "-c", "echo $$; while :; do echo tick >>ticks; sleep 0.1; done")
    assert process.stdout is not None
    number = (await process.stdout.readline()).decode().strip()
    process.kill()
    await process.communicate()
    before = int(await pod.sh("wc -l <ticks"))
    async with asyncio.timeout(20 * PATIENCE):
        while int(await pod.sh("wc -l <ticks")) <= before:
            await asyncio.sleep(0.1)
    await pod.sh(f"kill {number}")


async def test_logs_are_those_of_each_start_of_the_container(pod: Pod) -> None:
    await pod.started(command=PRINTS)
    code, _, complaints = await pod.kubectl("logs", POD, "--previous")
    assert (code, b'previous terminated container "sandbox" in pod "work-0" not found' in complaints) == (1, True)
    following = await pod.begin("logs", "-f", POD)
    assert following.stdout is not None
    async with asyncio.timeout(20 * PATIENCE):
        assert sorted([await following.stdout.readline() for _ in range(3)]) == [b"one\n", b"three\n", b"two\n"]
    ending = await pod.begin("exec", POD, "--", "kill", "-TERM", "1")
    status = await pod.until(lambda status: status["restartCount"] == 1 and status["ready"])
    assert status["lastState"]["terminated"]["exitCode"] == 7
    async with asyncio.timeout(20 * PATIENCE):
        assert await following.stdout.read() == b""
        await following.wait()
    with contextlib.suppress(ProcessLookupError):
        ending.kill()
    await ending.communicate()
    for words, expected in (
        (["--previous", "--tail=1"], b"three\n"),
        (["--limit-bytes=5"], b"one\n"),
        (["--since-time=2100-01-01T00:00:00Z"], b""),
    ):
        code, out, complaints = await pod.kubectl("logs", POD, *words)
        assert (code, out[: len(expected)]) == (0, expected), complaints
    _, out, _ = await pod.kubectl("logs", POD, "--timestamps", "--tail=1")
    stamp = out.split(b" ")[0].decode()
    assert stamp.startswith(time.strftime("%Y-")), out


async def test_process_1_is_the_pods_where_its_processes_are_shared(pod: Pod) -> None:
    await pod.started(shared=True, command=PRINTS)
    assert (await pod.sh("kill -TERM 1; cut -d' ' -f4 /proc/2/stat; ls -d /proc/2/cwd; echo $HOME")).split()[::2] == [
        "1",
        "/home/agent",
    ]
    code, _, _ = await pod.kubectl("exec", POD, "--", "sh", "-c", "kill -TERM $$")
    assert code == 143
    ending = await pod.begin("exec", POD, "--", "kill", "-TERM", "2")
    status = await pod.until(lambda status: status["restartCount"] == 1 and status["ready"])
    assert status["lastState"]["terminated"]["exitCode"] == 7
    with contextlib.suppress(ProcessLookupError):
        ending.kill()
    await ending.communicate()


async def test_files_are_copied_in_both_directions(pod: Pod, tmp_path: Path) -> None:
    await pod.started()
    content = os.urandom(300_000)
    (tmp_path / "given").write_bytes(content)
    for source, target in (
        (f"{tmp_path}/given", f"{POD}:/home/agent/it"),
        (f"{POD}:/home/agent/it", f"{tmp_path}/back"),
    ):
        code, _, complaints = await pod.kubectl("cp", source, target)
        assert code == 0, complaints
    assert (tmp_path / "back").read_bytes() == content


async def test_a_port_is_that_of_the_containers_own_network(pod: Pod) -> None:
    await pod.started(command=[f"{sys.base_prefix}/bin/python3", "-m", "http.server", "8080", "--bind", "127.0.0.1"])
    await pod.sh("echo found >page; bash -c 'until : >/dev/tcp/127.0.0.1/8080; do sleep 0.1; done 2>/dev/null'")
    local = free_port()
    forwarding = await pod.begin("port-forward", POD, f"{local}:8080")
    assert forwarding.stdout is not None
    try:
        async with asyncio.timeout(20 * PATIENCE):
            await forwarding.stdout.readline()
            async with aiohttp.ClientSession() as session:
                for _ in range(2):
                    async with session.get(f"http://127.0.0.1:{local}/page") as answer:
                        assert await answer.text() == "found\n"
    finally:
        forwarding.terminate()
        await forwarding.communicate()


async def test_a_port_on_which_nothing_listens_is_refused(pod: Pod) -> None:
    await pod.started()
    local = free_port()
    forwarding = await pod.begin("port-forward", POD, f"{local}:9999")
    assert forwarding.stdout is not None
    async with asyncio.timeout(20 * PATIENCE):
        await forwarding.stdout.readline()
        _, writer = await asyncio.open_connection("127.0.0.1", local)
        _, complaints = await forwarding.communicate()
    writer.close()
    assert b"dial tcp4 127.0.0.1:9999: connect: connection refused" in complaints


async def test_a_deleted_pod_ends_its_processes_and_answers_no_exec(pod: Pod) -> None:
    # The shell ignores SIGTERM as process 1, so that it is killed after the time of grace.
    await pod.started(command=["/bin/sh", "-c", "while :; do sleep 60; done"])
    hanging = await pod.begin("exec", POD, "--", "sh", "-c", "echo $$; exec sleep 300")
    assert hanging.stdout is not None
    await hanging.stdout.readline()
    begun = time.monotonic()
    await pod.delete()
    await pod.gone()
    assert time.monotonic() - begun > 1.5
    await asyncio.sleep(1)
    assert hanging.returncode is None
    hanging.kill()
    await hanging.communicate()


async def test_a_command_that_does_not_exist_is_never_started(pod: Pod) -> None:
    await pod.create(command=["no-such"])
    status = await pod.until(lambda status: status["restartCount"] > 0)
    end = status["lastState"].get("terminated") or status["state"]["terminated"]
    assert (end["exitCode"], end["reason"]) == (128, "StartError")
    assert 'exec: "no-such": executable file not found in $PATH' in end["message"]
    code, _, complaints = await pod.kubectl("exec", POD, "--", "true")
    assert (code, b"container not found" in complaints or b"pod does not exist" in complaints) == (1, True), complaints


async def test_what_a_pod_is_told_to_do_goes_before_its_process(pod: Pod, node: Node) -> None:
    await pod.started()
    node.behave(pod.namespace, POD, "crash-loop")
    await pod.until(lambda status: "waiting" in status["state"])
    code, _, _ = await pod.kubectl("exec", POD, "--", "true")
    assert code == 1
