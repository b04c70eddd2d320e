"""A former holder of a namespace that resumes changes nothing, whichever write it was about."""

import copy

import pytest

from tests.support import fencing
from tests.support.fencing import Act
from tests.support.rig import Rig
from tests.support.scripted import CLAIMS, INGRESSES, SECRETS, SERVICES, SETS
from tests.support.scripted_api import ScriptedApi

pytestmark = pytest.mark.slow


@pytest.mark.fault(11)
@pytest.mark.parametrize("act", Act)
async def test_late_write_of_a_former_holder_changes_nothing(rig: Rig, api: ScriptedApi, act: Act) -> None:
    async def look() -> fencing.Objects:
        return {
            f"{collection}/{name}": fencing.of_interest(copy.deepcopy(found))
            for collection in (SETS, SERVICES, INGRESSES, SECRETS, CLAIMS)
            for name, found in api.objects.get(collection, {}).items()
        }

    some = [case for case in fencing.cases() if case.act is act]
    async with fencing.handover(rig, look) as made:
        answers = await made.run(some, quiet=0.3)
    assert answers.keys() == set(some)
