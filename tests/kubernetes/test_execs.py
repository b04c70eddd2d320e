"""Commands in sandboxes on the path that they take in a cluster: API server, kubelet, and a real process."""

import asyncio
import contextlib
import dataclasses
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from sandbox.v1 import access_pb2 as pb
from sandbox_client import Client
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase

from tests.kubernetes.cluster import API, back
from tests.kubernetes.cut import ANSWERED, SENT, Relay
from tests.kubernetes.ground import SERVICE, KubernetesGround, grant_access, started
from tests.support.rig import FAST, Rig
from tests.support.service import Service
from tests.support.waiting import PATIENCE
from tests.support.working import Printed, Worker

pytestmark = pytest.mark.processes

A, B = "exec-a", "exec-b"
CONTROLLERS = "kube-controller-manager"
MANY = 10
"""Execs of each sandbox of a fault: 20 in all."""
COUNT = 120
COUNTING = f"echo ran >>runs-$NAME; i=0; while [ $i -lt {COUNT} ]; do echo $NAME $i; i=$((i+1)); sleep 0.05; done"
SHORT = "echo ran >>runs; for i in 1 2 3; do echo line $i; done; echo done >&2; exit 3"
AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.FAILED_PRECONDITION)
"""What a caller tries again after. The last one: no sandbox runs for a moment."""
WITHIN = 60.0 * PATIENCE
ENDS_WITHIN = 5.0 * PATIENCE
"""Seconds from the request that ends a pod, which is given a moment, until its execs have ended."""


async def attached(worker: Worker, exec_: pb.Exec, printed: Printed) -> None:
    """Follows to the end, and attaches again with the offsets whenever it is cut, as a caller does."""
    async with asyncio.timeout(WITHIN):
        while printed.exited is None:
            with contextlib.suppress(grpc.RpcError):
                await worker.follow(exec_, printed)
            await asyncio.sleep(0.05)


async def begun(worker: Worker, script: str, request_id: str, **fields: object) -> pb.Exec:
    """Starts a command, and again with the same request id for as long as the service asks for that."""
    async with asyncio.timeout(WITHIN):
        while True:
            try:
                return await worker.shell(script, request_id=request_id, **fields)
            except grpc.RpcError as error:
                assert error.code() in AGAIN, error
            await asyncio.sleep(0.05)


class Execs:
    """20 running execs in two sandboxes, each of which counts lines with its name."""

    def __init__(self) -> None:
        self.names = [(sandbox, f"{sandbox}-{number}") for sandbox in (A, B) for number in range(MANY)]
        self.ids = {name: str(uuid.uuid4()) for _, name in self.names}
        self.begun: dict[str, pb.Exec] = {}
        self.printed = {name: Printed() for _, name in self.names}

    async def start(self, channel: grpc.aio.Channel) -> None:
        """Starts them, or starts them again as a caller does whose answer was lost."""
        made = await asyncio.gather(
            *(
                begun(Worker(channel, sandbox), COUNTING, self.ids[name], env={"NAME": name})
                for sandbox, name in self.names
            )
        )
        for (_, name), one in zip(self.names, made, strict=True):
            assert self.begun.setdefault(name, one).exec_id == one.exec_id

    async def follow(self, channel: grpc.aio.Channel) -> None:
        await asyncio.gather(
            *(attached(Worker(channel, sandbox), self.begun[name], self.printed[name]) for sandbox, name in self.names)
        )

    async def until_all_count(self) -> None:
        async with asyncio.timeout(WITHIN):
            while not all(one.out.count(b"\n") > 3 for one in self.printed.values()):
                await asyncio.sleep(0.01)

    async def check(self, channel: grpc.aio.Channel) -> None:
        """Every line was printed once and in order, and no command ran twice."""
        for name, one in self.printed.items():
            assert (one.gaps, one.exited) == ([], pb.ExecExited(code=0, reason=pb.EXEC_EXIT_REASON_EXIT))
            assert one.out.decode().splitlines() == [f"{name} {number}" for number in range(COUNT)]
        for sandbox in (A, B):
            ran = await Worker(channel, sandbox).run("cat runs-* | wc -l; ls runs-* | wc -l")
            assert ran.out.split() == [b"%d" % MANY] * 2


async def running(service: Service) -> None:
    def wait() -> None:
        with service.client() as client:
            for one in (A, B):
                create(client, one)
            for one in (A, B):
                client.wait_until(one, "RUNNING", timeout=60 * PATIENCE)

    await asyncio.to_thread(wait)


def create(client: Client, sandbox_id: str) -> None:
    client.create("demo", sandbox_id=sandbox_id)


@pytest.fixture
async def ground(ground: KubernetesGround) -> KubernetesGround:
    """With the rights of the service to enter sandboxes."""
    await asyncio.to_thread(grant_access, ground.cluster, ground.namespace)
    return ground


@pytest.mark.fault(94)
async def test_94_every_line_arrives_once_through_a_kill_of_the_service(service: Service) -> None:
    await running(service)
    execs = Execs()
    async with grpc.aio.insecure_channel(service.address) as channel:
        await execs.start(channel)
        following = asyncio.create_task(execs.follow(channel))
        await execs.until_all_count()
        await asyncio.to_thread(service.kill)
        await asyncio.to_thread(service.start)
        await execs.start(channel)
        await following
        await execs.check(channel)


@pytest.mark.fault(95)
async def test_95_every_line_arrives_once_through_a_restart_of_the_api_server(
    service: Service, ground: KubernetesGround
) -> None:
    await running(service)
    execs = Execs()
    async with grpc.aio.insecure_channel(service.address) as channel:
        await execs.start(channel)
        following = asyncio.create_task(execs.follow(channel))
        await execs.until_all_count()
        # A node that cannot renew its lease for eight seconds would be lost, and its execs with it: another fault.
        ground.cluster.kill(CONTROLLERS)
        try:
            ground.cluster.kill(API)
            await asyncio.sleep(1)
            await back(ground.cluster)
            await following
        finally:
            ground.cluster.run(CONTROLLERS)
        await execs.check(channel)


@pytest.fixture
async def relay(ground: KubernetesGround) -> AsyncIterator[Relay]:
    async with Relay(ground.cluster) as made:
        yield made


@pytest.fixture
def pace() -> Pace:
    return FAST


@pytest.fixture
async def worker(ground: KubernetesGround, relay: Relay, pace: Pace, tmp_path: Path) -> AsyncIterator[Worker]:
    """In a sandbox that runs, of a service that speaks to the API server through the relay."""
    ground.cluster.kubeconfig(tmp_path / "kubeconfig", SERVICE, relay.url)
    async with started(Rig(ground, tmp_path, pace=pace)) as rig:
        await rig.create(A)
        await rig.settled(A, Phase.RUNNING)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
            yield Worker(channel, A)


async def short(worker: Worker) -> Printed:
    printed = Printed()
    await attached(worker, await begun(worker, SHORT, str(uuid.uuid4())), printed)
    return printed


@pytest.mark.fault(96)
@pytest.mark.parametrize("pace", [dataclasses.replace(FAST, access_end_shown_within=0.1)])
@pytest.mark.parametrize("direction", [SENT, ANSWERED])
async def test_96_a_cut_before_in_or_after_a_message_loses_and_repeats_nothing(
    worker: Worker, relay: Relay, direction: str
) -> None:
    relay.watch()
    await short(worker)
    places = [(number, direction, byte) for number, one in enumerate(relay.ends) for byte in cuts(one[direction])]
    for place in places:
        relay.watch(place)
        printed = await short(worker)
        assert (printed.out, printed.err, printed.gaps) == (b"line 1\nline 2\nline 3\n", b"done\n", []), place
        assert printed.exited == pb.ExecExited(code=3, reason=pb.EXEC_EXIT_REASON_EXIT)
    # A conversation may be some bytes shorter than the first one.
    assert relay.cuts > 0.9 * len(places)
    relay.watch()
    assert (await worker.run("wc -l <runs")).out.split() == [b"%d" % (len(places) + 1)]


def cuts(ends: list[int]) -> list[int]:
    """After how many bytes a connection is cut: around the end of each message, and within the messages."""
    around = {end + step for end in ends for step in (-1, 0, 1)}
    return sorted(one for one in around | {*range(0, ends[-1], max(1, ends[-1] // 8))} if 0 <= one < ends[-1])


@pytest.mark.fault(91)
async def test_91_an_exec_ends_with_its_pod(worker: Worker, ground: KubernetesGround) -> None:
    exec_ = await worker.shell("echo ran >>runs; echo begun; exec sleep 300")
    printed = Printed()
    await worker.until(exec_, printed, b"begun")
    following = asyncio.create_task(worker.follow(exec_, printed))
    await asyncio.to_thread(ground.cluster.request, "DELETE", ground.path("pods", f"{A}-0"))
    async with asyncio.timeout(ENDS_WITHIN):
        await following
    await check_lost(worker, exec_, printed)


@pytest.mark.fault(91)
async def test_91_an_exec_ends_with_its_container(worker: Worker) -> None:
    # Process 1 is the pod's, and that of the container the next one.
    exec_ = await worker.shell("echo ran >>runs; echo begun; kill -TERM 2; exec sleep 300")
    printed = Printed()
    async with asyncio.timeout(ENDS_WITHIN):
        await attached(worker, exec_, printed)
    await check_lost(worker, exec_, printed)


async def check_lost(worker: Worker, exec_: pb.Exec, printed: Printed) -> None:
    """The exec has ended with its incarnation, and does not run in the next one."""
    assert printed.exited is not None
    assert printed.exited.reason == pb.EXEC_EXIT_REASON_POD_REPLACED
    assert (await worker.get(exec_)).state == pb.EXEC_STATE_LOST
    after = await begun(worker, "cat runs", str(uuid.uuid4()))
    assert after.incarnation != exec_.incarnation
    assert (await worker.follow(after)).out == b"ran\n"
