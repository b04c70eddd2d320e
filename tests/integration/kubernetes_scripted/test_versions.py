"""Versions that go backwards: etcd is restored from a backup, or another cluster has the same address."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sandbox_server.domain.phase import Phase, Reason
from sandbox_server.engines import kubernetes

from tests.support.rig import A, Rig
from tests.support.scripted import SETS, ScriptedGround, started, until
from tests.support.scripted_api import ScriptedApi

NEVER = 3600.0
NOTICES: list[dict[str, Any]] = [{"cluster_silence": 1.0, "resync": NEVER}, {"cluster_silence": NEVER, "resync": 1.0}]
"""What alone notices: a watch that is silent for long, or the list now and then."""


def noticing(api: ScriptedApi, folder: Path, **settings: float) -> Rig:
    """A rig whose engine has these settings. Its reconciler never looks at a sandbox that nothing woke."""
    ground = ScriptedGround(api, folder)
    noticing = ground.settings.model_copy(update=settings)
    return Rig(
        ground,
        folder,
        resync=NEVER,
        engine=lambda: kubernetes.KubernetesEngine(noticing.kubernetes, noticing.pace, noticing.default_image),
    )


@pytest.mark.fault(56)
@pytest.mark.find(4)
@pytest.mark.parametrize("notices", NOTICES, ids=["silence", "list"])
@pytest.mark.slow
async def test_a_cluster_from_before_a_stop_is_seen_and_stopped_again(
    api: ScriptedApi, tmp_path: Path, notices: dict[str, Any]
) -> None:
    async with started(noticing(api, tmp_path, **notices)) as rig:
        await rig.create(A)
        await rig.settled(A, Phase.RUNNING)
        backup = api.backup()
        await rig.begin(A, Phase.STOPPED)
        await rig.settled(A, Phase.STOPPED)
        api.restore(*backup)
        assert api.objects[SETS][A]["spec"]["replicas"] == 1
        await until(lambda: api.objects[SETS][A]["spec"]["replicas"] == 0)
        await rig.settled(A, Phase.STOPPED)
        rig.check_history()


@pytest.mark.fault(56)
@pytest.mark.find(4)
@pytest.mark.parametrize("notices", NOTICES, ids=["silence", "list"])
@pytest.mark.slow
async def test_sandbox_of_a_recreated_cluster_has_lost_its_disk(
    api: ScriptedApi, tmp_path: Path, notices: dict[str, Any]
) -> None:
    async with started(noticing(api, tmp_path, **notices)) as rig:
        await rig.create(A)
        await rig.settled(A, Phase.RUNNING)
        api.restore(1, {}, {})
        lost = await rig.until(A, lambda one: one.status.phase is Phase.ERROR)
        assert lost.status.reason is Reason.VOLUME_LOST


@pytest.mark.fault(56)
@pytest.mark.find(4)
@pytest.mark.slow
async def test_the_answer_to_a_write_with_a_version_that_has_passed_leads_to_a_list(
    api: ScriptedApi, tmp_path: Path
) -> None:
    async with started(noticing(api, tmp_path, cluster_silence=NEVER, resync=NEVER)) as rig:
        await rig.create(A)
        await rig.settled(A, Phase.RUNNING)
        backup = api.backup()
        for phase in (Phase.STOPPED, Phase.RUNNING, Phase.STOPPED):
            await rig.begin(A, phase)
            await rig.settled(A, phase)
        api.restore(*backup)
        # Nothing is noticed yet: the watches wait for versions that are to come.
        await asyncio.sleep(0.5)
        assert (await rig.get(A)).status.phase is Phase.STOPPED
        await rig.begin(A, Phase.RUNNING)
        await rig.settled(A, Phase.RUNNING)
        assert rig.observe(await rig.get(A)).pod is not None


@pytest.mark.fault(56)
@pytest.mark.find(4)
@pytest.mark.slow
async def test_cluster_from_before_a_stop_is_noticed_when_its_api_server_is_back(
    api: ScriptedApi, tmp_path: Path
) -> None:
    async with started(noticing(api, tmp_path, cluster_silence=NEVER, resync=NEVER)) as rig:
        await rig.create(A)
        await rig.settled(A, Phase.RUNNING)
        backup = api.backup()
        await rig.begin(A, Phase.STOPPED)
        await rig.settled(A, Phase.STOPPED)
        await api.stop()
        await asyncio.sleep(1)
        api.restore(*backup)
        await api.start()
        await until(lambda: api.objects[SETS][A]["spec"]["replicas"] == 0)
        await rig.settled(A, Phase.STOPPED)
        rig.check_history()


@pytest.mark.fault(56)
@pytest.mark.find(4)
async def test_periodic_list_finds_what_no_watch_reported(api: ScriptedApi, tmp_path: Path) -> None:
    async with started(noticing(api, tmp_path, cluster_silence=NEVER, resync=1.0)) as rig:
        await rig.create(A)
        await rig.settled(A, Phase.RUNNING)
        # Removed without an event.
        del api.objects[SETS][A]
        await until(lambda: A in api.objects[SETS])
