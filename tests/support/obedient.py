"""A pure model of an engine that does what it is asked, a step at a time."""

import dataclasses
from datetime import datetime, timedelta

from sandbox_server.domain import lifecycle, status
from sandbox_server.domain.observed import Observed, Pod, Volume, Workload
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Sandbox

UID = "the-sandbox"


class ObedientEngine:
    """Like the StatefulSet controller with a kubelet behind it: `act` asks, each `step` brings things one step on."""

    def __init__(self, observed: Observed) -> None:
        self.workload, self.pod, self.volume = observed.workload, observed.pod, observed.volume
        self._volumes = 0

    def observe(self) -> Observed:
        return Observed(workload=self.workload, pod=self.pod, volume=self.volume)

    def act(self, sandbox: Sandbox, action: lifecycle.Action) -> int:
        if isinstance(action, lifecycle.Delete):
            if self.workload and self.workload.owner == sandbox.uid:
                self.workload = None
                if self.pod:
                    self.pod = dataclasses.replace(self.pod, terminating=True, ready=False, reason=Reason.NOT_READY)
            ours = self.volume and (self.volume.owner == sandbox.uid or self.volume.uid == sandbox.volume_uid)
            if self.volume and ours and not sandbox.keep_volume:
                self.volume = dataclasses.replace(self.volume, terminating=True)
            return 0
        if isinstance(action, lifecycle.RemoveWorkload):
            if self.workload and self.workload.owner == sandbox.uid:
                self.workload = dataclasses.replace(self.workload, terminating=True)
            return sandbox.applied_revision
        if self.volume and self.volume.lost and not sandbox.volume_uid:
            self.volume = None
        fresh = self.workload is None or self.workload.terminating
        revision = 100 if fresh or self.workload is None else self.workload.revision + 1
        self.workload = Workload(
            owner=sandbox.uid,
            generation=sandbox.generation,
            replicas=action.replicas,
            revision=revision,
            controller_caught_up=False,
        )
        return revision

    def step(self) -> bool:
        """Brings one thing on; False if all is as asked."""
        workload, pod, volume = self.workload, self.pod, self.volume
        if pod and pod.terminating:
            self.pod = None
        elif workload and workload.terminating:
            self.workload = None
        elif volume and volume.terminating and pod is None:
            self.volume = None
        elif pod and (
            workload is None
            or workload.replicas == 0
            or (workload.generation, workload.owner) != (pod.generation, pod.owner)
        ):
            self.pod = dataclasses.replace(pod, terminating=True, ready=False, reason=Reason.NOT_READY)
        elif workload and workload.replicas == 1 and volume is None:
            self._volumes += 1
            self.volume = Volume(owner=workload.owner, uid=f"made-{self._volumes}", name="v", size="1", bound=False)
        elif workload and workload.replicas == 1 and volume and not volume.bound:
            self.volume = dataclasses.replace(volume, bound=True)
        elif workload and workload.replicas == 1 and pod is None:
            self.pod = Pod(
                owner=workload.owner, generation=workload.generation, ready=False, reason=Reason.CONTAINER_CREATING
            )
        elif pod and not pod.ready:
            self.pod = dataclasses.replace(pod, ready=True, reason=Reason.READY, message="")
        elif workload and not workload.controller_caught_up:
            self.workload = dataclasses.replace(workload, controller_caught_up=True)
        else:
            return False
        return True


def settle(sandbox: Sandbox, engine: ObedientEngine, now: datetime) -> tuple[Sandbox, lifecycle.Decision]:
    """What the reconciler does, until nothing moves any more. Fails if it never ends."""
    for _ in range(60):
        now += timedelta(milliseconds=10)
        decision = lifecycle.decide(sandbox, engine.observe(), now)
        sandbox = status.record(sandbox, engine.observe(), decision, now)
        if decision.action is not None:
            revision = engine.act(sandbox, decision.action)
            sandbox = dataclasses.replace(sandbox, applied_generation=sandbox.generation, applied_revision=revision)
        elif not engine.step():
            return sandbox, decision
        else:
            engine.step()
    raise AssertionError(f"it does not settle: {sandbox} {engine.observe()} {decision}")
