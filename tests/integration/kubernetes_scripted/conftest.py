"""A scripted API server for each test."""

from collections.abc import AsyncIterator

import pytest

from tests.integration.kubernetes_scripted.api import ScriptedApi


@pytest.fixture
async def api() -> AsyncIterator[ScriptedApi]:
    made = ScriptedApi()
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
