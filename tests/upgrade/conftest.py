"""Places for replicas in each test, on an empty database."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.scripted_api import ScriptedApi
from tests.upgrade.replicas import Replicas


@pytest.fixture
async def replicas(postgres: Callable[[], str], tmp_path: Path) -> AsyncIterator[Replicas]:
    api = ScriptedApi()
    await api.start()
    made = Replicas(api, postgres(), tmp_path)
    try:
        yield made
    finally:
        made.close()
        await api.stop()
