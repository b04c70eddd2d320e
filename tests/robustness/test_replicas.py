"""Random traffic over three replicas of the service on PostgreSQL, with a real control plane and with the scripted one."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.robustness import grounds, replicas, run
from tests.support.service import Service


@pytest.mark.timeout(int(run.MINUTES * 60) + 600)
@pytest.mark.parametrize("ground", [grounds.scripted, grounds.control_plane])
def test_three_replicas_keep_every_promise_under_random_faults(
    make_service: Callable[..., Service], tmp_path: Path, ground: Callable[..., AbstractAsyncContextManager[Any]]
) -> None:
    async def go() -> None:
        async with (
            ground(run.chooser("cluster")) as made,
            replicas.world(make_service, tmp_path, made, run.chooser("replicas")) as world,
        ):
            await run.go(world)

    asyncio.run(go())
