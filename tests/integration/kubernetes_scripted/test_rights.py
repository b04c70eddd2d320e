"""An API server that refuses what it allowed a moment ago: it has just started, or the right was taken away."""

import asyncio
import dataclasses
import time

import pytest
from aiohttp import web
from sandbox_server.domain.phase import Phase, Reason

from tests.support.rig import BUSY_SOON, FAST, A, Rig
from tests.support.scripted import CLAIMS, SETS
from tests.support.scripted_api import ScriptedApi, status

B = "suite-b"
WITHOUT_ROLES = 0.3
"""Seconds for which an API server that has just started refuses everything: long enough for many calls to be tried again, and
far shorter than a refusal has to last to become a reason."""
BUSY_LATE = pytest.mark.parametrize("pace", [dataclasses.replace(FAST, busy_after=60)], ids=["late"])
"""For tests in which no refusal may be reported for having lasted: a process may stall for many seconds, but not for 60."""


def reasons(rig: Rig) -> set[Reason]:
    return {one.status.reason for one in rig.history}


@pytest.mark.fault(18)
@BUSY_LATE
@pytest.mark.slow
async def test_restarted_api_server_without_its_roles_shows_in_no_status(rig: Rig, api: ScriptedApi) -> None:
    for name in (A, B):
        await rig.create(name)
        await rig.settled(name, Phase.RUNNING)
    api.restart(without_roles=WITHOUT_ROLES)
    await rig.env(A, AFTER="1")
    await rig.begin(B, Phase.STOPPED)
    await rig.settled(A, Phase.RUNNING, within=20)
    await rig.settled(B, Phase.STOPPED, within=20)
    assert reasons(rig).isdisjoint({Reason.CLUSTER_FORBIDDEN, Reason.CLUSTER_BUSY})
    assert Phase.ERROR not in {one.status.phase for one in rig.history}


@pytest.mark.fault(18)
@BUSY_LATE
@pytest.mark.slow
async def test_service_and_api_server_that_start_together_show_no_missing_roles(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    await rig.stop()
    api.restart(without_roles=WITHOUT_ROLES)
    await rig.start()
    await rig.create(B)
    await rig.env(A, AFTER="1")
    await rig.settled(A, Phase.RUNNING, within=20)
    await rig.settled(B, Phase.RUNNING, within=20)
    assert reasons(rig).isdisjoint({Reason.CLUSTER_FORBIDDEN, Reason.CLUSTER_BUSY})


@pytest.mark.fault(18)
@BUSY_LATE
@pytest.mark.slow
async def test_restarted_api_server_does_not_make_an_empty_namespace_look_removed(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED)
    api.restart(without_roles=WITHOUT_ROLES)
    await asyncio.sleep(WITHOUT_ROLES / 2)
    await rig.create(B)
    await rig.settled(B, Phase.RUNNING, within=20)
    assert Phase.ERROR not in {one.status.phase for one in rig.history}


@pytest.mark.fault(33)
@pytest.mark.parametrize("pace", [BUSY_SOON], ids=["soon"])
@pytest.mark.slow
async def test_right_that_was_taken_away_is_reported_once_that_has_lasted(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    api.role = False
    began = time.monotonic()
    await rig.env(A, AFTER="1")
    await rig.until(A, lambda one: one.status.reason is Reason.CLUSTER_FORBIDDEN, within=10)
    assert time.monotonic() - began >= BUSY_SOON.busy_after - 0.05
    assert Reason.CLUSTER_BUSY not in reasons(rig)
    api.role = True
    await rig.settled(A, Phase.RUNNING, within=40)


@pytest.mark.fault(33)
@pytest.mark.parametrize("pace", [BUSY_SOON], ids=["soon"])
async def test_missing_right_to_patch_does_not_block_a_delete(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    await rig.settled(A, Phase.RUNNING)
    words = 'statefulsets.apps is forbidden: User "u" cannot patch resource "statefulsets" in the namespace "default"'

    async def refuse(_: web.Request) -> web.StreamResponse:
        return status(403, words)

    api.lasting.append((lambda request: request.method == "PATCH", refuse))
    await rig.delete(A)
    await rig.settled(A, Phase.TERMINATED, within=20)
    assert (api.objects[SETS], api.objects[CLAIMS]) == ({}, {})
