"""Programs in the pods of a move, as of a connection that stays open and silent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import pytest
from sandbox_server import engines
from sandbox_server.domain.pace import Pace
from sandbox_server.engines.kubernetes import entrance, streams
from sandbox_server.engines.kubernetes.client import Client
from sandbox_server.engines.kubernetes.former_pod import Entry
from sandbox_server.engines.kubernetes.objects import Meta, Object
from sandbox_server.engines.kubernetes.resources import Kind, Reference


class Api:
    """Shows a pod, and after some looks none; a look fails in between."""

    def __init__(self) -> None:
        self.looks = 0

    async def find(self, _pod: Reference, whole: bool) -> Object | None:
        assert whole
        self.looks += 1
        if self.looks == 2:
            raise engines.Unreachable("busy")
        return Object(metadata=Meta(uid="u")) if self.looks < 4 else None


@contextlib.asynccontextmanager
async def started(*_words: object) -> AsyncIterator[streams.Stream]:
    yield cast(streams.Stream, None)


async def test_a_program_that_falls_silent_with_its_pod_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance, "started", started)
    api: Any = Api()
    pace = replace(Pace(), home_watch_every=0.001)
    entry = Entry(
        cast(Client, api), pace, Reference(Kind.POD, "default", "p"), "c", lambda pod: pod.metadata.uid == "u"
    )
    with pytest.raises(engines.Unreachable, match="has ended"):
        async with entry.enter(("sh",)):
            await asyncio.Event().wait()
    assert api.looks == 4
    api.looks = -100
    async with entry.enter(("sh",)):
        await asyncio.sleep(0.01)
    with pytest.raises(TimeoutError):
        async with entry.enter(("sh",)):
            raise TimeoutError
