"""What a crashed process said last is in the status, without what its environment holds."""

import pytest
from sandbox_server.domain.phase import Phase, Reason

from tests import samples
from tests.integration.local.conftest import LocalRig


@pytest.mark.find(45)
async def test_the_last_words_of_a_crash_are_told_without_the_environment(rig: LocalRig) -> None:
    script = 'echo "cannot connect with $TOKEN" >&2; exit 3'
    await rig.create("a", {"TOKEN": samples.CANARY}, spec=rig.ground.script(script))
    failed = await rig.until("a", lambda one: one.status.phase is Phase.ERROR)
    assert failed.status.last_exit is not None
    assert failed.status.last_exit.message == "cannot connect with [redacted]"
    # While the pod of the earlier generation is all there is, its values are not known any more.
    await rig.env("a", TOKEN="another")
    again = await rig.until("a", lambda one: one.status.reason is not Reason.ACCEPTED)
    assert again.status.last_exit == failed.status.last_exit
