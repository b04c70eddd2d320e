"""Random traffic over three replicas of the service on PostgreSQL with a real control plane."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.robustness import replicas, run
from tests.support.service import Service


@pytest.mark.timeout(int(run.MINUTES * 60) + 600)
def test_three_replicas_keep_every_promise_under_random_faults(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    async def go() -> None:
        async with replicas.world(make_service, tmp_path, run.chooser("replicas")) as world:
            await run.go(world)

    asyncio.run(go())
