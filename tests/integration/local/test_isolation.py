"""What a sandbox can see and change of the machine; ports; readiness; the terminal."""

import os
import socket
import tempfile
from pathlib import Path

import pytest
from sandbox_server.domain import errors
from sandbox_server.domain.event import Event
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.local import launch, ports
from sandbox_server.reconciler.memory import Memory

from tests.support.local import LocalRig

A = "isolation-a"
isolated = pytest.mark.parametrize("isolation", ["isolated"])


async def said(rig: LocalRig, script: str, env: dict[str, str] | None = None) -> list[str]:
    """What a script printed in a sandbox."""
    await rig.create(A, env, spec=rig.ground.script(f"({script}) >said 2>&1; mv said done; sleep MARK"))
    done = rig.ground.home(A) / "done"
    await rig.there(done.exists)
    return done.read_text().splitlines()


@isolated
@pytest.mark.slow
async def test_the_machines_settings_cannot_be_changed(rig: LocalRig) -> None:
    settings = (
        "for one in /proc/sys/kernel/hostname /proc/sys/vm/drop_caches /proc/sysrq-trigger /proc/irq/*/smp_affinity"
    )
    told = await said(
        rig, f"{settings}; do test -w $one && echo $one; done; find /proc/sys -type f -writable; echo end"
    )
    assert told == ["end"]


@isolated
async def test_private_keys_of_the_machine_and_other_homes_are_out_of_sight(rig: LocalRig) -> None:
    hidden = "/etc/ssl/private /etc/shadow /root/.ssh /run /var /srv"
    told = await said(rig, f"ls -A /home; for one in {hidden}; do test -e $one && echo $one; done; ls /etc/ssl")
    assert told == ["agent", "certs", "openssl.cnf"]


@isolated
@pytest.mark.slow
async def test_a_data_directory_within_the_system_is_out_of_sight(
    rig: LocalRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not where the sandbox has a directory of its own.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as system:
        monkeypatch.setattr(launch, "_SYSTEM", (*launch._SYSTEM, system))
        (Path(system) / "program").write_text("seen\n")
        await rig.stop()
        rig.ground.settings = rig.ground.settings.model_copy(update={"data_dir": Path(system) / "data"})
        await rig.start()
        told = await said(rig, f"cat {system}/program; ls -A {system}/data; echo end")
        await rig.delete(A)
        await rig.settled(A, Phase.TERMINATED)
        assert told == ["seen", "end"]


@isolated
@pytest.mark.slow
async def test_no_descriptor_and_no_variable_of_the_service_comes_in(rig: LocalRig) -> None:
    with Path("/dev/null").open() as inherited:
        os.set_inheritable(inherited.fileno(), True)
        await rig.restart()
        told = await said(rig, "ls /proc/self/fd; env | cut -d= -f1 | sort", {"MINE": "1"})
    # The fourth is the list itself.
    assert told[:4] == ["0", "1", "2", "3"]
    assert told[4:] == ["HOME", "LANG", "MINE", "PATH", "PORT", "PWD", "TERM", "USER"]


def test_a_bubblewrap_that_tells_too_little_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = launch.program()
    old = tmp_path / "bwrap"
    old.write_text(
        f'#!/bin/sh\n{found} "$@" >{tmp_path}/told\ncode=$?\ngrep -v namespace {tmp_path}/told\nexit $code\n'
    )
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    launch.program.cache_clear()
    assert launch.program() not in ("", str(old))
    launch.program.cache_clear()


def test_missing_isolation_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "switched off" in launch.describe("none")
    monkeypatch.setattr(launch, "program", lambda: "")
    assert "does not run here" in launch.describe("auto")


def test_a_port_is_given_once_until_it_is_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        low = busy.getsockname()[1]
        made = ports.Ports(range(low, low + 20), 600)
        given = [made.allot() for _ in range(10)]
    assert len({*given, low}) == 11
    made.reserve(given[:5])
    with pytest.raises(errors.Unavailable) as caught:
        for _ in range(20):
            given.append(made.allot())
    assert caught.value.reason == "NO_FREE_PORT"
    made.release(given[:1])
    assert made.allot() == given[0]
    # A create that failed never takes what it was given.
    monkeypatch.setattr(ports.time, "monotonic", lambda: float("1e12"))
    again = {made.allot() for _ in range(10)}
    assert not again & set(given[1:5])


@pytest.mark.slow
async def test_a_deleted_sandboxs_ports_are_free_and_a_live_ones_are_not(rig: LocalRig) -> None:
    rig.ground.settings = rig.ground.settings.model_copy(update={"local_ports": "28400-28401"})
    await rig.restart()
    first = await rig.create(A)
    second = await rig.create("isolation-b")
    with pytest.raises(errors.Unavailable):
        await rig.create("isolation-c")
    await rig.restart()
    with pytest.raises(errors.Unavailable):
        await rig.create("isolation-c")
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)
    third = await rig.create("isolation-c")
    assert third.addresses.ports == first.addresses.ports != second.addresses.ports


@pytest.mark.slow
async def test_the_ports_of_one_whose_folder_went_before_its_end_was_written_are_free(
    rig: LocalRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.ground.settings = rig.ground.settings.model_copy(update={"local_ports": "28402-28403"})
    await rig.restart()
    first = await rig.create(A)
    await rig.create("isolation-b")
    await rig.settled(A, Phase.RUNNING)
    write = rig.reconciler._passes._write

    async def killed(event: Event, memory: Memory, after: Sandbox) -> Event:
        if after.status.phase is Phase.TERMINATED:
            raise errors.Unavailable("TEST", "the service was killed")
        return await write(event, memory, after)

    monkeypatch.setattr(rig.reconciler._passes, "_write", killed)
    await rig.delete(A)
    await rig.there(lambda: not rig.ground.folder(A).exists())
    await rig.restart()
    await rig.settled(A, Phase.TERMINATED)
    assert (await rig.create("isolation-c")).addresses.ports == first.addresses.ports
