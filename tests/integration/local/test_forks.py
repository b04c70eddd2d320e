"""The process that enters sandboxes in bubblewrap for the local engine."""

import contextlib

import grpc
import psutil
import pytest
from sandbox_server.domain.phase import Phase

from tests.support.local import LocalRig
from tests.support.working import Worker, refusal

A = "exec-a"

pytestmark = pytest.mark.parametrize("isolation", ["isolated"])


async def test_sandboxes_are_entered_again_after_the_process_that_enters_them_was_killed(rig: LocalRig) -> None:
    await rig.create(A, spec=rig.ground.script("exec sleep MARK"))
    await rig.settled(A, Phase.RUNNING)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        worker = Worker(channel, A)
        assert (await worker.run("echo one")).out == b"one\n"
        (entering,) = _entering()
        entering.kill()
        entering.wait()
        with pytest.raises(grpc.RpcError) as caught:
            await worker.run("echo two")
        assert refusal(caught.value)[:2] == ("UNAVAILABLE", "SANDBOX_NOT_REACHED")
        assert (await worker.run("echo three")).out == b"three\n"
        assert len(_entering()) == 1
    await rig.restart()
    assert _entering() == []


def _entering() -> list[psutil.Process]:
    """The process that enters, without its forks, which are its children."""
    found = []
    for one in psutil.Process().children():
        # Other children may end, or have ended, at any moment.
        with contextlib.suppress(psutil.Error):
            if any(word.endswith("/local/enter.py") for word in one.cmdline()):
                found.append(one)
    return found
