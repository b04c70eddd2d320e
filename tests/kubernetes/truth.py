"""What is told of a cause, and how soon: a rig, and beside it the administrator and a witness."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from sandbox_server.domain.phase import ConditionType, Phase, Reason
from sandbox_server.domain.sandbox import Sandbox, Status

from tests.kubernetes.ground import KubernetesGround
from tests.kubernetes.witness import Sight, Witness
from tests.support.rig import Rig
from tests.support.waiting import PATIENCE

A = "truth-a"
SHOWN = (
    ConditionType.SCHEDULED,
    ConditionType.VOLUME_BOUND,
    ConditionType.IMAGE_PULLED,
    ConditionType.READY,
    ConditionType.ENV_APPLIED,
)
"""The conditions that the tables have. Those of sizes, resources and usage have tests of their own."""
POD = f"{A}-0"
APPS = "apis/apps/v1"
CLAIM = f"vn-homevn-agent-{A}-0"
SOON = 1.0 * PATIENCE
"""Seconds between the API server showing a cause and the status telling it."""
ALL_WELL = "+ + + + +"
SIGNS = {True: "+", False: "-", None: "?"}

TABLE: list[tuple[str, str, str, str]] = []
USUAL = "1.36"
"""The release of the control plane unless `RELEASE` names another one. Rows of another one say so."""
MEASURED_ON: list[str] = []
"""The version of the control plane, once it has answered."""


def conditions(status: Status) -> str:
    """Those of the tables, in their order: + true, - false, ? unknown, and the reason unless it is READY."""
    return " ".join(
        SIGNS[one.status] + ("" if one.reason is Reason.READY else one.reason.name)
        for one in status.conditions
        if one.type in SHOWN
    )


def no_pod(reason: Reason, volume: str = "-VOLUME_BINDING") -> str:
    """The conditions where a cause keeps the pod from being made."""
    return f"-{reason.name} {volume} ?{reason.name} -{reason.name} -{reason.name}"


class Truth:
    """Use while its rig runs and before it does anything."""

    def __init__(self, rig: Rig, ground: KubernetesGround, witness: Witness) -> None:
        self.rig = rig
        self.ground = ground
        self.witness = witness
        self.announced: list[tuple[float, Sandbox]] = []
        rig.feed.on_event(lambda event: self.announced.append((time.monotonic(), event.sandbox)))

    async def sighted(self) -> "Truth":
        """Once the service sees the cluster: what a mutation costs before that is no detection time."""
        async with asyncio.timeout(30 * PATIENCE):
            while not self.rig.engine.any_synced:
                await asyncio.sleep(0.01)
        return self

    async def request(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        return await asyncio.to_thread(lambda: self.ground.cluster.request(method, path, body, kind=kind))

    async def running(self) -> Sandbox:
        await self.rig.create(A)
        return await self.rig.settled(A, Phase.RUNNING)

    async def shown(self, resource: str, holds: Callable[[Sight], bool], since: float = 0.0) -> float:
        """When the API server showed such a change."""
        return (await self.witness.first(resource, holds, since)).at

    async def bound(self, shown: float) -> float:
        """When the API server has shown the disk as well: its binding is the cluster's time, not the service's."""
        return max(
            shown, await self.shown("persistentvolumeclaims", lambda one: one.value["status"]["phase"] == "Bound")
        )

    async def told(
        self, cause: str, phase: Phase, reason: Reason, message: str, seen: str, shown: float, since: float = 0.0
    ) -> Sandbox:
        """The first announcement since `since` that says exactly this, soon enough after `shown`.

        `message` is a part of the words, `seen` the conditions as `conditions` writes them; empty: any, where a pod
        that is still ready goes.
        """

        def says(one: Sandbox) -> bool:
            status = one.status
            return (
                (status.phase, status.reason) == (phase, reason)
                and message in status.message
                and seen in ("", conditions(status))
            )

        end = time.monotonic() + 45 * PATIENCE
        while time.monotonic() < end:
            for at, one in self.announced:
                if at >= since and says(one):
                    self.keep(cause, phase, reason, at - shown)
                    return one
            await asyncio.sleep(0.01)
        last = [
            (one.status.phase, one.status.reason, one.status.message, conditions(one.status))
            for _, one in self.announced
        ]
        raise AssertionError(f"{cause} is not told, but: {last[-6:]}")

    def keep(self, cause: str, phase: Phase, reason: Reason, late: float) -> None:
        """A row of the table. The service may hear of a change before the witness does."""
        assert late < SOON
        TABLE.append((cause, phase.name, reason.name, f"{max(0.0, late) * 1000:.0f} ms"))
