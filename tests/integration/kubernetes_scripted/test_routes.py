"""The Kubernetes engine and ingress settings that change while sandboxes exist."""

from typing import Any

import pytest
from sandbox_server.domain.phase import Phase

from tests.support.rig import A, Rig
from tests.support.scripted import INGRESSES, ScriptedGround
from tests.support.scripted_api import ScriptedApi

CHANGED = {"ingress_domain": "two.test", "ingress_class": "two", "tls_secret": "two"}


def routes(api: ScriptedApi, sandbox_id: str) -> list[Any]:
    return [api.objects[INGRESSES][f"{sandbox_id}-{kind}-ingress"]["spec"] for kind in ("app", "ttyd")]


@pytest.mark.fault(69)
@pytest.mark.find(18)
async def test_restart_with_other_ingress_settings_moves_new_sandboxes_only(rig: Rig, api: ScriptedApi) -> None:
    await rig.create(A)
    before = await rig.settled(A, Phase.RUNNING)
    stood = routes(api, A)
    assert isinstance(rig.ground, ScriptedGround)
    rig.ground.settings = rig.ground.settings.model_copy(update=CHANGED)
    await rig.restart()
    await rig.settled(A, Phase.RUNNING)
    await rig.env(A, SEEN="1")
    after = await rig.settled(A, Phase.RUNNING)
    assert routes(api, A) == stood
    assert after.addresses == before.addresses
    assert [f"https://{one['rules'][0]['host']}" for one in stood] == [
        after.addresses.public_url,
        after.addresses.ttyd_url,
    ]

    await rig.create("later")
    later = await rig.settled("later", Phase.RUNNING)
    assert later.addresses.public_url.endswith(".two.test")
    assert [one["ingressClassName"] for one in routes(api, "later")] == ["two", "two"]
