"""Beside a replica of a former release, nothing is accepted that it would misread to the loss of the caller."""

import dataclasses

import pytest
import sqlalchemy as sa
from sandbox_server import manager, store
from sandbox_server.domain import errors
from sandbox_server.domain.origins import Clone
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.schedule import Target
from sandbox_server.store import connection

from tests.support import samples
from tests.support.replicas import PACE, TENANT, Replicas

FORMER = (
    "INSERT INTO replica (id, release, engine, namespaces, alive_until, cut_off) "
    "VALUES ('former', '0', 'kubernetes', '', extract(epoch FROM clock_timestamp()) + :lasting, false)"
)


def wanted(sandbox_id: str) -> manager.Mutation:
    return manager.Mutation(TENANT, Key("a", sandbox_id), None, None)


@pytest.mark.slow
async def test_nothing_is_accepted_that_a_replica_of_a_former_release_would_misread(replicas: Replicas) -> None:
    # A replica that lives for longer than two leases is not believed.
    replica = await replicas.start(base_pace=dataclasses.replace(PACE, lease=60.0))
    await replicas.until(replicas.shared)
    await replica.create("a", "box")
    source = await replica.settled("a", "box", Phase.RUNNING)
    clone = Clone(source.key, project="", labels={}, set={}, unset=(), replaces=False)
    database = connection.Database(replicas.url, writes=True, busy_timeout=1)
    try:
        with database.engine.begin() as opened:
            opened.execute(sa.text(FORMER), {"lasting": 100})
        await replicas.until(lambda: not replica.running.leases.understood)
        with pytest.raises(errors.Unavailable) as refused:
            await replica.running.manager.clone(wanted("copy"), clone, "")
        assert refused.value.reason == "UPGRADE_UNDER_WAY"
        with pytest.raises(errors.Unavailable):
            await replica.running.manager.create(wanted("copy"), samples.spec(), {}, False, snapshot_id="nap")
        schedule = samples.schedule(namespace="a", tenant=TENANT.name, target=Target("box"), before_delete=True)
        await replica.running.store.write_schedule(lambda _: store.ScheduleWrite(schedule=schedule))
        with pytest.raises(errors.Unavailable):
            await replica.running.manager.delete(wanted("box"), keep_volume=False)
        # All else goes on.
        await replica.create("a", "another")
        await replica.running.manager.delete(wanted("another"), keep_volume=False)
        with database.engine.begin() as opened:
            opened.execute(sa.text("DELETE FROM replica WHERE id = 'former'"))
        await replicas.until(lambda: replica.running.leases.understood)
        await replica.running.manager.clone(wanted("copy"), clone, "")
        await replica.settled("a", "copy", Phase.RUNNING)
    finally:
        database.close()
