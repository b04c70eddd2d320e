"""When a local sandbox counts as running: what has to answer, for how long it may not, and the start deadline."""

import asyncio
import dataclasses
import functools
import sys
from typing import Any

import pytest
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.domain.spec import Port, Readiness, SandboxSpec
from sandbox_server.engines import local
from sandbox_server.engines.local import readiness

from tests.support import samples
from tests.support.local import LocalRig
from tests.support.ports import free_port
from tests.support.rig import FAST

A = "readiness-a"

# It is the same with and without bubblewrap.
pytestmark = pytest.mark.parametrize("isolation", ["isolated"])

# Listens once `listen` is there; answers an HTTP request with what is in `code`, and none without.
SERVER = """
import http.server, os, pathlib, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        while not pathlib.Path('code').exists():
            time.sleep(0.01)
        self.send_response(int(pathlib.Path('code').read_text()))
        self.end_headers()
while not pathlib.Path('listen').exists():
    time.sleep(0.01)
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def pace() -> Pace:
    return dataclasses.replace(FAST, probe_until_ready=0.05, probe_after=0.05, probe_again=0.05)


def serving(port: str = "$PORT", ports: tuple[Port, ...] = (Port("app", 3000),), **readiness_: Any) -> SandboxSpec:
    words = ("/bin/sh", "-c", f'exec {sys.base_prefix}/bin/python3 -c "$0" {port}', SERVER)
    return samples.spec(command=words, ports=ports, readiness=Readiness(**readiness_))


async def not_ready(rig: LocalRig) -> None:
    await rig.until(A, lambda one: one.status.reason is Reason.NOT_READY)


async def test_http_is_ready_with_a_good_answer_and_no_more_after_three_bad_ones(rig: LocalRig) -> None:
    await rig.create(A, spec=serving(http_path="/health"))
    home = rig.ground.home(A)
    await not_ready(rig)
    (home / "listen").touch()
    (home / "code").write_text("503")
    await not_ready(rig)
    assert Phase.RUNNING not in {one.status.phase for one in rig.history}
    (home / "code").write_text("204")
    await rig.settled(A, Phase.RUNNING)
    (home / "code").write_text("400")
    await not_ready(rig)
    (home / "code").write_text("302")
    await rig.settled(A, Phase.RUNNING)


async def test_one_bad_answer_of_a_ready_sandbox_is_forgiven(rig: LocalRig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def answers(*_: object) -> bool:
        asked.append(len(asked))
        return asked[-1] % 3 == 0

    monkeypatch.setattr(readiness, "probe", answers)
    await rig.create(A, spec=serving(http_path="/"))
    await rig.settled(A, Phase.RUNNING)
    told = len(rig.history)
    await rig.there(lambda: len(asked) > 20)
    assert rig.history[told:] == []


@pytest.mark.parametrize("first", [True, False])
async def test_a_tcp_port_is_ready_once_it_is_open(rig: LocalRig, first: bool) -> None:
    # The first port of the spec means PORT; any other port means itself.
    other = free_port()
    ports = (Port("app", 3000), Port("other", other))
    spec = serving("$PORT" if first else str(other), ports, tcp_port=3000 if first else other)
    await rig.create(A, spec=spec)
    await not_ready(rig)
    (rig.ground.home(A) / "listen").touch()
    await rig.settled(A, Phase.RUNNING)


@pytest.mark.slow
async def test_a_ready_sandbox_stays_so_over_a_restart_and_is_asked_again(rig: LocalRig) -> None:
    await rig.create(A, spec=serving(http_path="/"))
    home = rig.ground.home(A)
    await not_ready(rig)
    (home / "code").write_text("200")
    (home / "listen").touch()
    await rig.settled(A, Phase.RUNNING)
    told = len(rig.history)
    await rig.restart()
    await rig.settled(A, Phase.RUNNING)
    assert {one.status.phase for one in rig.history[told:]} <= {Phase.RUNNING}
    (home / "code").write_text("500")
    await not_ready(rig)


@pytest.mark.parametrize("pace", [dataclasses.replace(FAST, probe_within=1000)])
async def test_a_probe_that_hangs_keeps_no_mutation_waiting(rig: LocalRig) -> None:
    await rig.create(A, spec=serving(http_path="/"))
    await not_ready(rig)
    (rig.ground.home(A) / "listen").touch()
    await asyncio.sleep(0.5)
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)


@pytest.mark.slow
async def test_start_that_takes_too_long_is_reported_and_may_still_succeed(rig: LocalRig) -> None:
    rig.settings["start_deadline"] = 0.5
    await rig.restart()
    await rig.create(A, spec=serving(http_path="/"))
    failed = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
    assert failed.status.reason is Reason.START_DEADLINE
    (rig.ground.home(A) / "code").write_text("200")
    (rig.ground.home(A) / "listen").touch()
    await rig.settled(A, Phase.RUNNING)


async def test_probe_that_connects_to_itself_fails(rig: LocalRig, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    itself = functools.partial(asyncio.open_connection, local_addr=("127.0.0.1", port))
    # As the kernel's choice of a port may be.
    monkeypatch.setattr(asyncio, "open_connection", itself)
    assert not await readiness.probe(port, "", 1)


async def test_the_web_server_of_a_sandbox_without_a_command_answers_once_it_runs(rig: LocalRig) -> None:
    made = await rig.create(A, spec=samples.spec())
    await rig.settled(A, Phase.RUNNING)
    _, writer = await asyncio.open_connection("127.0.0.1", made.addresses.ports[0])
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("says", [Phase.RUNNING, Phase.STARTING])
@pytest.mark.slow
async def test_adopted_process_is_as_ready_as_it_was_until_its_first_probe_whatever_the_status_says(
    rig: LocalRig, says: Phase
) -> None:
    await rig.create(A, spec=serving(http_path="/health"))
    home, ready = rig.ground.home(A), []
    await not_ready(rig)
    (home / "listen").touch()
    for code, reason in (("500", Reason.NOT_READY), ("200", Reason.READY), ("500", Reason.NOT_READY)):
        (home / "code").write_text(code)
        await rig.until(A, lambda one, reason=reason: one.status.reason is reason)
        sandbox = await rig.get(A)
        await rig.stop()
        chosen = rig.ground.settings
        engine = local.LocalEngine(chosen.local, chosen.data_dir, chosen.pace)
        status = dataclasses.replace(sandbox.status, phase=says)
        await engine.open([dataclasses.replace(sandbox, status=status)], lambda _: None, lambda _: 1)
        pod = engine.observe(sandbox).pod
        await engine.close()
        assert pod is not None
        ready.append(pod.ready)
        await rig.start()
    assert ready == [False, True, False]
