"""How many homes are copied at once."""

import asyncio
from typing import Any

import pytest
from sandbox_server.domain.observed import Move
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Adopted
from sandbox_server.engines.kubernetes.move_steps import Steps
from sandbox_server.engines.kubernetes.moving import Moves

from tests.support import samples


class View:
    """Shows no pod."""

    pod = None

    def observe(self, _sandbox: object, _fault: object) -> "View":
        return self


async def test_two_homes_are_copied_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    may_end = asyncio.Event()

    async def copy(steps: Steps) -> None:
        begun.append(steps.sandbox.id)
        await may_end.wait()

    monkeypatch.setattr(Steps, "copy", copy)
    nothing: Any = None
    view: Any = View()
    moves = Moves(nothing, nothing, Pace())
    adopted = Adopted(uids=(), workload="{}", selector={}, container="agent", pod="former")
    for name in ("a", "b", "c"):
        sandbox = samples.sandbox(name, adopted=adopted)
        moves.go_on(sandbox, view, nothing, Move(False, True, ""), lambda _key: None)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert begun == ["a", "b"]
    may_end.set()
    async with asyncio.timeout(10):
        while len(begun) < 3:
            await asyncio.sleep(0)
    await moves.close()
