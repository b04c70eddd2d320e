"""Carries out what callers ask for of schedules. Each mutation is one transaction; the runner then looks at what is due."""

import uuid
from collections.abc import Callable
from datetime import datetime

from sandbox_server import store
from sandbox_server.domain import schedule_mutations
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.schedule import Schedule
from sandbox_server.domain.schedule_mutations import Wanted, not_found
from sandbox_server.domain.tenant import Reach
from sandbox_server.domain.tenant import not_found as sandbox_not_found


class ScheduleManager:
    """Creates, changes, deletes and reads schedules on behalf of principals."""

    def __init__(self, store: store.Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self.now = now

    async def create(self, principal: Principal, request: store.Request | None, key: Key, wanted: Wanted) -> Schedule:
        """Creates a schedule.

        Raises `errors.Invalid`, `errors.NotFound`, `errors.AlreadyExists` and `errors.ResourceExhausted` as the contract says.
        """

        def write(reader: store.Reader) -> store.ScheduleWrite:
            made = schedule_mutations.new(key, principal.tenant, str(uuid.uuid4()), wanted, self.now())
            _find_target(principal, reader, made)
            schedule_mutations.free(reader.schedules.last(key))
            schedule_mutations.admit(made.tenant, reader.schedules.count(made.tenant))
            return store.ScheduleWrite(schedule=made)

        return _found(key, await self._store.write_schedule(write, request))

    async def update(self, principal: Principal, request: store.Request | None, key: Key, wanted: Wanted) -> Schedule:
        """Changes a schedule. Raises `errors.Invalid` and `errors.NotFound`."""

        def write(reader: store.Reader) -> store.ScheduleWrite:
            before = _seen(principal, key, reader.schedules.last(key))
            after = schedule_mutations.update(before, wanted, self.now())
            if after.target != before.target:
                _find_target(principal, reader, after)
            return store.ScheduleWrite(schedule=after)

        return _found(key, await self._store.write_schedule(write, request))

    async def delete(self, principal: Principal, request: store.Request | None, key: Key) -> None:
        """Removes a schedule; its snapshots stay. Raises `errors.NotFound`."""

        def write(reader: store.Reader) -> store.ScheduleWrite:
            return store.ScheduleWrite(schedule=_seen(principal, key, reader.schedules.last(key)), removed=True)

        await self._store.write_schedule(write, request)

    async def get(self, principal: Principal, key: Key) -> Schedule:
        """Returns a schedule. Raises `errors.NotFound`."""
        return _seen(principal, key, await self._store.read(lambda reader: reader.schedules.last(key)))

    async def list(self, reach: Reach, after: Key | None, limit: int) -> list[Schedule]:
        """Returns at most `limit` schedules within reach, in the order of their keys, after `after`."""
        return await self._store.read(lambda reader: reader.schedules.page(reach, after, limit), store.Lane.LISTS)


def _seen(principal: Principal, key: Key, last: Schedule | None) -> Schedule:
    if last is None or not principal.sees(last):
        raise not_found(key.id)
    return last


def _found(key: Key, recorded: store.ScheduleRecorded) -> Schedule:
    """Returns what was recorded. Raises `errors.NotFound` for a repeat about a schedule that is gone."""
    if recorded.schedule is None:
        raise not_found(key.id)
    return recorded.schedule


def _find_target(principal: Principal, reader: store.Reader, schedule: Schedule) -> None:
    """Raises `errors.NotFound` unless there is the sandbox that a schedule names."""
    if schedule.target.sandbox_id:
        last = reader.last(Key(schedule.namespace, schedule.target.sandbox_id))
        if last is None or not principal.sees(last.sandbox):
            raise sandbox_not_found(schedule.target.sandbox_id)
