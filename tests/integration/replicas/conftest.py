"""Replicas for each test."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.replicas import Replicas
from tests.support.scripted_api import ScriptedApi


@pytest.fixture
async def replicas(postgres: Callable[[str], str], migrated: str, tmp_path: Path) -> AsyncIterator[Replicas]:
    api = ScriptedApi()
    api.kubelet.folder = tmp_path
    await api.start()
    made = Replicas(api, postgres(migrated), tmp_path)
    try:
        yield made
    finally:
        await made.close()
        await api.stop()
