"""Directories whose sandbox answers with what no directory has."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sandbox_server.access.asking import Asking, Where
from sandbox_server.access.trees import Trees
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Sandbox

from tests.support import samples


class Hostile:
    """An engine, a sandbox and the program in it, which lists the names that it was given."""

    def __init__(self, *names: bytes) -> None:
        self._listed = b"/home/agent\0names\0" + b"".join(name + b"\0" for name in names) + b"\0"
        self._described = b"81a4 5 1700000000 1 1 2023-11-14 22:13:20.000000000 +0000 ./a/\n\0\0"
        self._answers = iter((self._listed, self._described, b""))
        self.asked = b""

    async def running(self, *_: Any) -> Sandbox:
        return samples.sandbox()

    async def incarnation(self, *_: Any) -> str:
        return "incarnation"

    @contextlib.asynccontextmanager
    async def enter(self, *_: Any) -> AsyncIterator["Hostile"]:
        yield self

    async def write(self, data: bytes) -> None:
        self.asked = data

    async def read(self, _most: int) -> bytes:
        return next(self._answers)


@pytest.mark.parametrize("name", [b".", b"..", b"b/c", b"../a"])
async def test_name_that_no_entry_has_is_not_listed(name: bytes) -> None:
    sandbox: Any = Hostile(name, b"a")
    asking = Asking(sandbox, sandbox, Pace())
    nothing: Any = None
    where = Where(nothing, nothing, b"")
    found, more = await Trees(nothing, asking).list(where, b"", 10)
    assert ([one.path for one in found], more) == ([b"/home/agent/a"], b"")
    assert sandbox.asked == b"2\n"
