"""How a namespace is looked at."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from sandbox_server.domain.phase import Reason
from sandbox_server.engines.kubernetes.namespace import Namespace


class Api:
    """An API server with one namespace, which answers once `answers` is set."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = asyncio.Event()
        self.metadata: dict[str, Any] = {"name": "default"}

    @contextlib.asynccontextmanager
    async def call(self, method: str, path: str, **_: Any) -> AsyncIterator["Api"]:
        self.asked += 1
        await self.answers.wait()
        yield self

    async def read(self) -> bytes:
        return json.dumps({"metadata": self.metadata}).encode()


async def test_one_look_answers_all_that_wait_for_it_and_the_next_look_is_new() -> None:
    api = Api()
    calls: Any = api
    namespace = Namespace(calls, "default")
    looks = [asyncio.create_task(namespace.examine(lambda: False)) for _ in range(20)]
    await asyncio.sleep(0)
    api.answers.set()
    await asyncio.gather(*looks)
    # The first look began before the others asked.
    assert api.asked == 2
    assert namespace.fault is None
    api.metadata["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    await namespace.examine(lambda: False)
    assert namespace.fault is not None and namespace.fault.reason is Reason.NAMESPACE_TERMINATING
