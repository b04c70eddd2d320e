"""The service on SQLite with the local engine: what goes wrong around it, and what it has to leave on the machine."""

import asyncio
import contextlib
import functools
import json
import random
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from sandbox.v1 import sandbox_pb2 as pb

from tests.robustness.run import Fault
from tests.support.marked import kill, programs
from tests.support.service import Service
from tests.support.waiting import PATIENCE


class Local:
    """One service. A fault is the service killed, ended or frozen; a sandbox's process killed, inside or around it, or
    crashing. See `run.World`."""

    namespaces = ("default",)

    def __init__(self, service: Service, choose: random.Random) -> None:
        self.service = service
        self.addresses = [service.address]
        self.choose = choose
        self.disks = Disks(service)

    def faults(self) -> Sequence[Fault]:
        faults = [self.kill, self.terminate, self.freeze, *[self.kill_inside, self.kill_around, self.crash] * 4]
        return [functools.partial(asyncio.to_thread, one) for one in faults]

    async def look(self) -> None:
        """Looks at every disk."""
        await asyncio.to_thread(self.disks.look)

    def heal(self) -> None:
        """Has no sandbox crash any more."""
        for folder in self.service.sandboxes():
            (folder / "volume" / "home" / "die").unlink(missing_ok=True)

    def kill(self) -> None:
        self.service.kill()
        self.service.start()

    def terminate(self) -> None:
        assert self.service.terminate() == 0
        self.service.start()

    def freeze(self) -> None:
        assert self.service.process is not None
        self.service.process.send_signal(signal.SIGSTOP)
        time.sleep(self.choose.uniform(0.1, 2))
        self.service.process.send_signal(signal.SIGCONT)

    def kill_inside(self) -> None:
        for pid in self.choose.sample(found := list(programs()), min(1, len(found))):
            kill(pid)

    def kill_around(self) -> None:
        for pid in self.choose.sample(found := list(programs()), min(1, len(found))):
            with contextlib.suppress(psutil.Error):
                kill(psutil.Process(pid).parents()[1].pid)

    def crash(self) -> None:
        for folder in self.choose.sample(found := self.service.sandboxes(), min(1, len(found))):
            with contextlib.suppress(OSError):
                (folder / "volume" / "home" / "die").touch()

    async def check(self, rows: Mapping[str, pb.Sandbox], log: Sequence[pb.SandboxStatus]) -> None:
        """Rows, directories and processes one to one; a kept disk and nothing else where one was kept."""
        latest = {one.sandbox_id: one for one in log}
        kept = {name for name, one in latest.items() if one.reason == pb.REASON_VOLUME_KEPT}
        folders = {path.name: {entry.name for entry in path.iterdir()} for path in self.service.sandboxes()}
        assert set(folders) == {*rows, *kept}, (
            set(folders) ^ {*rows, *kept},
            {one: str(rows.get(one) or latest.get(one)) for one in set(folders) ^ {*rows, *kept}},
            folders,
        )
        assert all(folders[name] == {"volume"} for name in kept)
        running = sorted(name for name, one in rows.items() if one.desired_state == pb.DESIRED_STATE_RUNNING)
        end = time.monotonic() + 10 * PATIENCE
        while (found := sorted(programs().values())) != running and time.monotonic() < end:
            await asyncio.sleep(0.1)
        assert found == running
        said = self.service.log.read_text()
        assert not [word for word in ("Traceback", "reconcile_failed", "local_sandbox_failed") if word in said]
        self.disks.look()


class Disks:
    """What was on each disk when it was first seen: only its removal may cost that."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.born: dict[str, str] = {}

    def look(self) -> None:
        for folder in self.service.sandboxes():
            uid, born = _label(folder), _read(folder / "volume" / "home" / "born")
            # Checked twice: in between, the disk may have belonged to another sandbox.
            if uid and uid == _label(folder) and (born or uid in self.born):
                assert self.born.setdefault(uid, born) == born, f"{folder} was emptied"


def _label(folder: Path) -> str:
    told = _read(folder / "volume" / "volume.json")
    return str(json.loads(told)["uid"]) if told else ""


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
