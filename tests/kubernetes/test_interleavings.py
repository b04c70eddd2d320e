"""No settled phase is announced early, whatever interleaves: with
`make test-kubernetes JOBS=0 ARGS='-s -k early' SECONDS=300 SEED=1` for longer.

Mutations, what becomes of pods, pods deleted by hand, components of the control plane that stand still for a while, and
restarts of the service, all at random. `history` says what is checked, and why that is sound. The seed gives each party
its own choices again; how they interleave is up to the machine.

No restart falls into such a standstill: what a service that is gone makes when its successor has looked is removed again
(see `test_fencing`), and until then contradicts what was announced.
"""

import asyncio
import contextlib
import os
import random
import urllib.error

from sandbox_server.domain import errors
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import Sandbox

from tests.kubernetes import history
from tests.kubernetes.ground import KubernetesGround
from tests.kubernetes.witness import Witness
from tests.support.rig import Rig

SECONDS = float(os.environ.get("SECONDS", "20"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(10**6)
NAMES = [f"mixed-{number}" for number in range(5)]
COMPONENTS = ["kube-controller-manager", "kube-controller-manager", "kube-scheduler", "kube-apiserver", "etcd"]
SETTLED = {Phase.RUNNING, Phase.STOPPED, Phase.TERMINATED}
DESIRED = {DesiredState.RUNNING: Phase.RUNNING, DesiredState.STOPPED: Phase.STOPPED}
OBJECTS = {"statefulsets": "apis/apps/v1", "ingresses": "apis/networking.k8s.io/v1"} | dict.fromkeys(
    ("pods", "services", "secrets"), "api/v1"
)


class Run:
    """Parties that act at random until `end`, and the list of what was announced meanwhile."""

    def __init__(self, rig: Rig, ground: KubernetesGround, witness: Witness) -> None:
        self.rig, self.ground, self.witness = rig, ground, witness
        self.announced: list[tuple[Sandbox, int]] = []
        self.asking: set[asyncio.Task[None]] = set()
        self.upright, self.answering = asyncio.Lock(), asyncio.Lock()
        self.counts: dict[str, int] = {}
        rig.listeners.append(self.heard)

    def heard(self, sandbox: Sandbox) -> None:
        if sandbox.status.phase in SETTLED and sandbox.status.reason is not Reason.ACCEPTED:
            task = asyncio.create_task(self.ask(sandbox))
            self.asking.add(task)
            task.add_done_callback(self.asking.discard)

    async def ask(self, sandbox: Sandbox) -> None:
        """Notes the revision that the API server has now."""
        async with self.witness.session.get(f"{self.witness.path('pods')}?limit=1") as answer:
            answer.raise_for_status()
            listed = await answer.json()
        self.announced.append((sandbox, int(listed["metadata"]["resourceVersion"])))

    def count(self, move: str) -> None:
        self.counts[move] = self.counts.get(move, 0) + 1

    async def caller(self, choose: random.Random) -> None:
        while True:
            move = choose.choice(["create", "create", "start", "stop", "env", "delete"])
            with contextlib.suppress(errors.NotFound, errors.AlreadyExists, errors.FailedPrecondition):
                async with self.upright:
                    await self.mutate(choose, move, choose.choice(NAMES))
                self.count(move)
            await asyncio.sleep(choose.choice([0, 0.02, 0.1, 0.5]) * choose.random())

    async def mutate(self, choose: random.Random, move: str, name: str) -> None:
        behaviour = choose.choice(["run", "run", "run", "slow", "crash-loop", "never-ready"])
        match move:
            case "create":
                await self.rig.create(name, {"BEHAVIOUR": behaviour}, adopt=choose.random() < 0.3)
            case "start":
                await self.rig.begin(name, Phase.RUNNING)
            case "stop":
                await self.rig.begin(name, Phase.STOPPED)
            case "env":
                await self.rig.env(name, BEHAVIOUR=behaviour, N=str(choose.random()))
            case "delete":
                await self.rig.delete(name, keep=choose.random() < 0.3)

    async def kubelet(self, choose: random.Random) -> None:
        """Pods that do not end for a while."""
        while True:
            pod = f"{choose.choice(NAMES)}-0"
            self.ground.node.behave(self.ground.namespace, pod, "stuck")
            await asyncio.sleep(choose.random())
            self.ground.node.behave(self.ground.namespace, pod, "")
            self.count("stuck")

    async def somebody(self, choose: random.Random) -> None:
        """Pods deleted by hand."""
        while True:
            await asyncio.sleep(choose.random())
            path = self.ground.path("pods", f"{choose.choice(NAMES)}-0")
            with contextlib.suppress(urllib.error.HTTPError):
                await asyncio.to_thread(self.ground.cluster.request, "DELETE", path)
                self.count("pod deleted")

    async def pauser(self, choose: random.Random) -> None:
        """Components that stand still for a while."""
        while True:
            name = choose.choice(COMPONENTS)
            async with self.answering:
                self.ground.cluster.pause(name)
                try:
                    await asyncio.sleep(choose.uniform(0.05, 1))
                finally:
                    self.ground.cluster.resume(name)
            self.count(f"{name} paused")
            await asyncio.sleep(choose.uniform(0.1, 1))

    async def restarter(self, choose: random.Random) -> None:
        while True:
            await asyncio.sleep(choose.uniform(4, 8))
            async with self.answering, self.upright:
                await self.rig.restart()
            self.count("restart")

    async def go(self) -> None:
        parties = [self.caller] * 3 + [self.kubelet, self.somebody, self.pauser, self.restarter]
        seeded = [(one, random.Random(f"{SEED} {number}")) for number, one in enumerate(parties)]
        tasks = [asyncio.create_task(one(choose)) for one, choose in seeded]
        done, _ = await asyncio.wait(tasks, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
        # Nobody is in the middle of something.
        async with self.answering, self.upright:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def settle(self) -> None:
        """Every sandbox comes to what was asked for last, and, deleted, to nothing."""
        for name in NAMES:
            self.ground.node.behave(self.ground.namespace, f"{name}-0", "run")
        for sandbox in self.rig.feed.catalogue.sandboxes():
            if sandbox.desired in DESIRED:
                await self.rig.settled(sandbox.id, DESIRED[sandbox.desired], 60)
                await self.rig.delete(sandbox.id)
            await self.rig.settled(sandbox.id, Phase.TERMINATED, 60)


async def test_no_settled_phase_is_announced_early(rig: Rig, ground: KubernetesGround) -> None:
    print(f"SEED={SEED}")
    async with Witness(ground.cluster, ground.namespace) as witness:
        run = Run(rig, ground, witness)
        await run.go()
        try:
            await run.settle()
        finally:
            while run.asking:
                await asyncio.wait(run.asking)
            for line in history.violations(run.announced, witness.seen):
                print(line)
        # What is to come of a controller that lags behind has come by now.
        await asyncio.sleep(2)
        left = {kind: names for kind, group in OBJECTS.items() if (names := ground.names(kind, group))}
        claims = ground.cluster.request("GET", ground.path("persistentvolumeclaims"))["items"]
        print(run.counts)
        assert witness.gaps == 0
        assert list(history.violations(run.announced, witness.seen)) == []
        assert left == {}
        last = {one.id: one for one in rig.history}.values()
        kept = {one.volume_uid for one in last if one.status.reason is Reason.VOLUME_KEPT and one.volume_uid}
        assert {one["metadata"]["uid"] for one in claims} == kept
