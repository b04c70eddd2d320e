"""Traffic at random, with a checker of what must always hold: `make test-random SECONDS=300 SEED=1`."""

import asyncio
import contextlib
import os
import random
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import AsyncClient, Kind, errors
from sandbox_client.watch import Event

from tests.conftest import Service

SECONDS = float(os.environ.get("SECONDS", "20"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(10**6)
SPEC = pb.SandboxSpec(command=["/bin/sh", "-c", "while sleep 0.2; do test -e die && rm die && exit 3; done"])
NAMES = [f"r-{number}" for number in range(12)]
PHASES = {pb.DESIRED_STATE_RUNNING: pb.PHASE_RUNNING, pb.DESIRED_STATE_STOPPED: pb.PHASE_STOPPED}


class Run:
    """Callers, watchers and a killer over one service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.choose = random.Random(SEED)
        self.histories: list[list[Event]] = []
        self.counts: dict[str, int] = {}

    async def caller(self, end: float) -> None:
        async with AsyncClient(self.service.address, timeout=20) as client:
            while time.monotonic() < end:
                move = self.choose.choice(
                    ["create", "start", "stop", "env", "delete", "status", "list", "get", "crash"]
                )
                name = self.choose.choice(NAMES)
                with contextlib.suppress(
                    errors.NotFound, errors.AlreadyExists, errors.FailedPrecondition, errors.Aborted
                ):
                    await self.move(client, move, name)
                    self.counts[move] = self.counts.get(move, 0) + 1
                await asyncio.sleep(self.choose.random() * 0.1)

    async def move(self, client: AsyncClient, move: str, name: str) -> None:
        match move:
            case "create":
                request_id = str(uuid.uuid4())
                first = await client.create("random", sandbox_id=name, spec=SPEC, request_id=request_id)
                again = await client.create("random", sandbox_id=name, spec=SPEC, request_id=request_id)
                assert first.uid == again.uid
            case "start":
                await client.start(name)
            case "stop":
                made = await client.stop(name)
                seen = await client.status(name, min_sequence=made.status.sequence)
                assert seen.sequence >= made.status.sequence
            case "env":
                await client.update_env(name, set={"N": str(self.choose.random())})
            case "delete":
                await client.delete(name, keep_volume=False)
            case "status":
                await client.status(name)
            case "list":
                assert len([one async for one in client.list()]) <= len(NAMES)
            case "get":
                await client.get(name)
            case "crash":
                home = self.service.folder / "data" / "sandboxes" / "default" / name / "volume" / "home"
                with contextlib.suppress(OSError):
                    (home / "die").touch()

    async def watcher(self, **wanted: str) -> None:
        history: list[Event] = []
        self.histories.append(history)
        async with AsyncClient(self.service.address) as client:
            async for event in client.watch(**wanted):  # type: ignore[arg-type]
                history.append(event)

    async def killer(self, end: float) -> None:
        """Kills the service, or asks it to end, every few seconds."""
        while time.monotonic() < end - 5:
            await asyncio.sleep(self.choose.uniform(4, 8))
            await asyncio.to_thread(self.choose.choice([self.service.kill, self.service.terminate]))
            await asyncio.to_thread(self.service.start)
            self.counts["restart"] = self.counts.get("restart", 0) + 1

    async def go(self) -> None:
        end = time.monotonic() + SECONDS
        watchers = [asyncio.create_task(self.watcher(project="random")) for _ in range(3)]
        watchers.append(asyncio.create_task(self.watcher()))
        await asyncio.sleep(0.5)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(6):
                tasks.create_task(self.caller(end))
            tasks.create_task(self.killer(end))
        async with AsyncClient(self.service.address) as client:
            await self.settle(client)
            last = (await client.page()).sequence
            async with asyncio.timeout(20):
                while any(not history or history[-1].sequence < last for history in self.histories):
                    await asyncio.sleep(0.1)
            for one in watchers:
                one.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
            self.check_histories(last)
            await self.check_ground(client)

    async def settle(self, client: AsyncClient) -> None:
        """Every sandbox comes to its desired phase."""
        for home in self.service.sandboxes():
            (home / "volume" / "home" / "die").unlink(missing_ok=True)
        async with asyncio.timeout(60):
            while True:
                found = [one async for one in client.list()]
                if all(one.status.phase == PHASES.get(one.desired_state) for one in found):
                    return
                await asyncio.sleep(0.2)

    def check_histories(self, last: int) -> None:
        """Ordered, unique, complete; and the same for all who watched the same."""
        told: dict[int, bytes] = {}
        for history in self.histories:
            assert Kind.RESYNC not in {one.kind for one in history}
            changes = [one for one in history if one.kind is Kind.CHANGE]
            sequences = [one.sequence for one in changes]
            assert sequences == list(range(sequences[0], last + 1))
            for one in changes:
                assert one.status is not None
                written = one.status.SerializeToString(deterministic=True)
                assert told.setdefault(one.sequence, written) == written
        assert len({history[1].sequence for history in self.histories}) >= 1

    async def check_ground(self, client: AsyncClient) -> None:
        """Rows, directories and processes one to one."""
        found = {one.sandbox_id: one async for one in client.list()}
        folders = {path.name for path in self.service.sandboxes()}
        assert folders == set(found)
        running = {name for name, one in found.items() if one.desired_state == pb.DESIRED_STATE_RUNNING}
        assert self.processes() == dict.fromkeys(running, 1)

    def processes(self) -> dict[str, int]:
        """How many process groups each sandbox has: bubblewrap's outer processes by their words."""
        counted: dict[str, int] = {}
        data = str(self.service.folder / "data" / "sandboxes")
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (path / "cmdline").read_bytes().decode().split("\0")
                homes = [one for one in words if one.startswith(data) and one.endswith("/volume/home")]
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                if homes and words[0].endswith("bwrap"):
                    inner = b"bwrap" in (Path("/proc") / str(parent) / "cmdline").read_bytes() if parent else False
                    if not inner:
                        name = homes[0].split("/")[-3]
                        counted[name] = counted.get(name, 0) + 1
        return counted


@pytest.mark.timeout(int(SECONDS) + 180)
def test_random_traffic_with_kills_keeps_every_promise(make_service: Callable[..., Service]) -> None:
    print(f"SEED={SEED}")
    service = make_service().start()
    run = Run(service)
    asyncio.run(run.go())
    print(run.counts)
