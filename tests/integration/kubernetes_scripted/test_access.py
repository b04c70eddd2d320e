"""Commands in pods, through a real gRPC client and the exec of a scripted API server that runs real processes."""

import asyncio
import contextlib
import copy
import dataclasses
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from aiohttp import web
from sandbox.v1 import access_pb2 as pb
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase

from tests.support.rig import FAST, A, Rig
from tests.support.scripted import PODS, UNANSWERED, evict, hang, lose_node, until
from tests.support.scripted_api import ScriptedApi
from tests.support.scripted_kubelet import PROTOCOLS
from tests.support.waiting import PATIENCE
from tests.support.working import Printed, Worker, refusal

POD = f"{A}-0"
LASTING = "trap '' TERM; echo up; while :; do sleep 0.1; done"


@pytest.fixture
def pace() -> Pace:
    """A test that waited for the end of `access_within` would be seen to."""
    return dataclasses.replace(FAST, access_within=60)


@pytest.fixture
async def worker(rig: Rig) -> AsyncIterator[Worker]:
    """In a sandbox that runs."""
    await rig.create(A, {"TOKEN": "hush"})
    await rig.settled(A, Phase.RUNNING)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        yield Worker(channel, A)


async def refused(call: Awaitable[object]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    code, reason, _ = refusal(caught.value)
    return code, reason


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.slow
async def test_command_runs_in_the_pod_with_its_environment(worker: Worker, api: ScriptedApi, protocol: str) -> None:
    api.kubelet.protocols = (protocol,)
    started = await worker.shell('read -r line; echo "$TOKEN $line"; echo wrong >&2; exit 3', stdin=True)
    assert await worker.write(started, (0, b"typed\n"), eof=True) == 6
    printed = await worker.follow(started)
    assert (printed.out, printed.err) == (b"hush typed\n", b"wrong\n")
    assert printed.exited == pb.ExecExited(code=3, reason=pb.EXEC_EXIT_REASON_EXIT)
    pod = api.objects[PODS][POD]
    assert started.incarnation == f"{pod['metadata']['uid']}.0"
    assert await worker.ids() == [started.exec_id]


@pytest.mark.slow
async def test_the_arguments_of_every_exec_are_constant(worker: Worker, api: ScriptedApi) -> None:
    await worker.run("echo canary", env={"CANARY": "canary"}, cwd="/canary")
    assert len({tuple(one) for one in api.kubelet.commands}) == 1
    assert "canary" not in str(api.kubelet.commands) + str(api.calls)


async def every_method(worker: Worker) -> set[tuple[str, str]]:
    one = pb.Exec(exec_id="a")
    calls = (
        worker.shell("true", exec_id="a"),
        worker.get(one),
        worker.wait(one),
        worker.ids(),
        worker.signal(one, "TERM"),
        worker.follow(one),
        worker.write(one, (0, b"a")),
    )
    return {await refused(call) for call in calls}


@pytest.mark.fault(93)
@pytest.mark.slow
async def test_without_the_right_every_method_says_so_and_the_rest_of_the_service_is_as_before(
    rig: Rig, api: ScriptedApi
) -> None:
    api.access = False
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        worker = Worker(channel, A)
        assert await every_method(worker) == {("FAILED_PRECONDITION", "ACCESS_NOT_GRANTED")}
        for phase in (Phase.STOPPED, Phase.RUNNING):
            await rig.begin(A, phase)
            await rig.settled(A, phase)
        api.access = True
        assert (await worker.run("echo granted")).out == b"granted\n"


@pytest.mark.fault(93)
@pytest.mark.slow
async def test_right_that_is_refused_for_a_moment_is_to_be_tried_again(worker: Worker, api: ScriptedApi) -> None:
    await worker.run("true")
    api.access = False
    assert await refused(worker.ids()) == ("UNAVAILABLE", "SANDBOX_NOT_REACHED")
    await asyncio.sleep(FAST.busy_after)
    assert await refused(worker.ids()) == ("FAILED_PRECONDITION", "ACCESS_NOT_GRANTED")


@pytest.mark.fault(93)
@pytest.mark.slow
async def test_image_without_a_shell_is_not_supported(worker: Worker, api: ScriptedApi) -> None:
    api.kubelet.shell = False
    assert await every_method(worker) == {("FAILED_PRECONDITION", "EXEC_UNSUPPORTED")}


@pytest.mark.fault(93)
@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
@pytest.mark.slow
async def test_answers_that_may_pass_are_unavailable(worker: Worker, api: ScriptedApi, status: int) -> None:
    api.kubelet.refusal = status
    assert await refused(worker.shell("true")) == ("UNAVAILABLE", "SANDBOX_NOT_REACHED")
    assert await refused(worker.ids()) == ("UNAVAILABLE", "SANDBOX_NOT_REACHED")


@pytest.mark.parametrize("answered_within", [UNANSWERED])
@pytest.mark.slow
async def test_call_that_is_not_answered_in_time_says_so(worker: Worker, api: ScriptedApi) -> None:
    api.lasting.append((lambda request: request.path.endswith("/exec"), hang))
    with pytest.raises(grpc.RpcError) as caught:
        await worker.ids()
    assert refusal(caught.value)[:2] == ("UNAVAILABLE", "SANDBOX_NOT_REACHED")
    assert "/exec: no answer within 1 s" in str(caught.value)


async def test_container_that_is_not_there_is_not_reached(worker: Worker, api: ScriptedApi) -> None:
    def ends() -> None:
        (container,) = api.objects[PODS][POD]["status"]["containerStatuses"]
        container["state"] = {"waiting": {}}

    api.kubelet.before_start = ends
    assert await refused(worker.shell("true")) == ("UNAVAILABLE", "SANDBOX_NOT_REACHED")


@pytest.mark.fault(92)
@pytest.mark.slow
async def test_command_never_runs_in_another_incarnation_than_the_one_that_was_decided(
    worker: Worker, api: ScriptedApi, rig: Rig
) -> None:
    def restart() -> None:
        api.kubelet.before_start = lambda: None
        api.restart_container("default", POD)

    api.kubelet.before_start = restart
    request_id = str(uuid.uuid4())
    assert await refused(worker.shell("touch ran", request_id=request_id)) == ("UNAVAILABLE", "SANDBOX_NOT_REACHED")
    await rig.until(A, lambda one: one.status.restart_count == 1)
    await rig.settled(A, Phase.RUNNING)
    repeated = await worker.shell("touch ran", request_id=request_id)
    assert (repeated.state, repeated.exited.reason) == (pb.EXEC_STATE_LOST, pb.EXEC_EXIT_REASON_POD_REPLACED)
    assert repeated.incarnation.endswith(".0")
    assert await worker.ids() == []
    assert list(api.kubelet.folder.glob("containers/*/home/ran")) == []


@pytest.mark.slow
async def test_foreign_pod_of_the_name_is_not_entered(worker: Worker, api: ScriptedApi) -> None:
    pod = copy.deepcopy(api.objects[PODS][POD])
    pod["metadata"]["annotations"] = {}
    api.put(PODS, pod)
    assert await refused(worker.shell("true")) in {
        ("UNAVAILABLE", "SANDBOX_NOT_REACHED"),
        ("FAILED_PRECONDITION", "SANDBOX_NOT_RUNNING"),
    }
    assert api.kubelet.commands == []


async def stop(rig: Rig, _: ScriptedApi) -> None:
    await rig.begin(A, Phase.STOPPED)


async def delete_pod(rig: Rig, api: ScriptedApi) -> None:
    api.unmade.add(A)
    api.delete(PODS, POD)
    await rig.until(A, lambda one: one.status.phase is not Phase.RUNNING)
    api.unmade.clear()
    api.control("default", A)


async def restart(_: Rig, api: ScriptedApi) -> None:
    api.restart_container("default", POD)


async def run_out_of_memory(_: Rig, api: ScriptedApi) -> None:
    api.restart_container("default", POD, "OOMKilled")


async def be_evicted(_: Rig, api: ScriptedApi) -> None:
    evict(api, PODS, POD)


async def lose_its_node(_: Rig, api: ScriptedApi) -> None:
    lose_node(api, PODS, POD)


End = Callable[[Rig, ScriptedApi], Awaitable[None]]


@pytest.mark.fault(91)
@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (stop, "SANDBOX_STOPPED"),
        (delete_pod, "POD_REPLACED"),
        (restart, "POD_REPLACED"),
        (run_out_of_memory, "OUT_OF_MEMORY"),
        (be_evicted, "POD_REPLACED"),
        (lose_its_node, "NODE_LOST"),
    ],
    ids=lambda one: getattr(one, "__name__", one),
)
@pytest.mark.slow
async def test_end_of_the_incarnation_ends_what_waits_for_the_exec_at_once(
    worker: Worker, rig: Rig, api: ScriptedApi, pace: Pace, end: End, reason: str
) -> None:
    # The connections say nothing of it, as if the node had been cut off.
    api.kubelet.gone = True
    started = await worker.shell(LASTING, stdin=True)
    printed = Printed()
    open_input = asyncio.Event()

    async def write() -> AsyncIterator[pb.WriteStdinRequest]:
        yield pb.WriteStdinRequest(**worker.names, exec_id=started.exec_id, data=b"a")
        await open_input.wait()

    following = asyncio.create_task(worker.follow(started, printed))
    waiting = asyncio.create_task(worker.wait(started))
    writing = asyncio.ensure_future(worker.stub.WriteStdin(write(), timeout=20 * PATIENCE))
    await until(lambda: printed.out == b"up\n")
    await asyncio.sleep(0.3)
    began = time.monotonic()
    await end(rig, api)
    done, _ = await asyncio.wait({following, waiting, writing}, timeout=20 * PATIENCE)
    assert len(done) == 3
    # Far less than the time for which an answer of a program is awaited.
    assert time.monotonic() - began < pace.access_within / 2
    wanted = pb.ExecExited(reason=pb.ExecExitReason.Value(f"EXEC_EXIT_REASON_{reason}"))
    assert printed.exited == wanted
    lost = await waiting
    assert (lost.state, lost.exited) == (pb.EXEC_STATE_LOST, wanted)
    assert await refused(writing) == ("FAILED_PRECONDITION", "STDIN_CLOSED")
    if end is not delete_pod:
        later = await worker.get(started)
        assert (later.state, later.exited) == (pb.EXEC_STATE_LOST, wanted)
    open_input.set()


@pytest.mark.slow
async def test_cut_connection_is_unavailable_while_the_incarnation_runs(worker: Worker, api: ScriptedApi) -> None:
    started = await worker.shell(LASTING)
    sockets: list[web.WebSocketResponse] = []
    run = api.kubelet._run

    async def cut(socket: web.WebSocketResponse, words: list[str], folder: Path, env: dict[str, str]) -> None:
        sockets.append(socket)
        await run(socket, words, folder, env)

    api.kubelet._run = cut  # type: ignore[method-assign]
    printed = Printed()
    following = asyncio.create_task(worker.follow(started, printed))
    await until(lambda: printed.out == b"up\n")
    for socket in sockets:
        with contextlib.suppress(OSError):
            await socket.close()
    assert await refused(following) == ("UNAVAILABLE", "SANDBOX_NOT_REACHED")
    await worker.signal(started, "KILL")
    again = await worker.follow(started, printed)
    assert again.exited == pb.ExecExited(code=137, signal=9, reason=pb.EXEC_EXIT_REASON_SIGNAL)
