"""The condition of a disk when its namespace changes hands."""

import pytest
from sandbox_server.access import files
from sandbox_server.domain.phase import ConditionType, Phase
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.domain.usage import Usage

from tests.support.replicas import Replicas

KEY = Key("a", "box")


def nearly_full(sandbox: Sandbox) -> bool | None:
    (found,) = [one.status for one in sandbox.status.conditions if one.type is ConditionType.DISK_NEARLY_FULL]
    return found


@pytest.mark.slow
async def test_next_holder_goes_on_with_what_the_former_one_has_measured(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = [Usage(95, 100, 0, 0)]
    monkeypatch.setattr(files, "usage", lambda _: disk[0])
    two = [await replicas.start(usage_interval=0.2) for _ in range(2)]
    await replicas.until(replicas.shared)
    holder, other = sorted(two, key=lambda one: "a" not in one.held())
    await holder.create(*KEY)
    await other.settled(*KEY, Phase.RUNNING)

    def known() -> bool | None:
        last = other.running.feed.catalogue.get(KEY)
        return nearly_full(last.event.sandbox) if last is not None else None

    await replicas.until(lambda: known() is True, within=20)
    # What lies between the limits tells nothing by itself. The holder alone measures.
    disk[0] = Usage(87, 100, 0, 0)
    assert not other.running.measuring.outcomes
    read = len(other.events)
    await replicas.stop(holder)
    await replicas.until(lambda: other.running.measuring.outcomes[""] >= 2, within=20)
    assert known() is True
    assert all(nearly_full(one.sandbox) for one in other.events[read:])
    disk[0] = Usage(84, 100, 0, 0)
    await replicas.until(lambda: known() is False, within=20)
