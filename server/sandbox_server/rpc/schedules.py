"""The RPCs of ScheduleService."""

from collections.abc import Awaitable
from typing import TypeVar

from sandbox.v1 import schedule_pb2 as pb

from sandbox_server.domain.pace import Pace
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.schedule import Schedule
from sandbox_server.rpc import deadlines, schedule_messages
from sandbox_server.rpc.auth import Caller
from sandbox_server.rpc.calls import Fields
from sandbox_server.schedules.manager import ScheduleManager

T = TypeVar("T")


class ScheduleServicer:
    """Implements ScheduleService; see `calls.Servicer`."""

    described = pb.DESCRIPTOR.services_by_name["ScheduleService"]
    endless = frozenset[str]()

    def __init__(self, schedules: ScheduleManager, pace: Pace) -> None:
        self._manager = schedules
        self._pace = pace

    async def CreateSchedule(self, principal: Principal, request: pb.CreateScheduleRequest, caller: Caller) -> Fields:
        identity, key, wanted = schedule_messages.creation(principal, request)
        return await self._answer(caller, self._manager.create(principal, identity, key, wanted))

    async def GetSchedule(self, principal: Principal, request: pb.GetScheduleRequest, caller: Caller) -> Fields:
        key = schedule_messages.named(principal, request)
        return await self._answer(caller, self._manager.get(principal, key))

    async def ListSchedules(self, principal: Principal, request: pb.ListSchedulesRequest, caller: Caller) -> Fields:
        reach, after, most = schedule_messages.listed(principal, request)
        found = await self._in_time(caller, self._manager.list(reach, after, most + 1))
        return schedule_messages.page(found, most, self._manager.now())

    async def UpdateSchedule(self, principal: Principal, request: pb.UpdateScheduleRequest, caller: Caller) -> Fields:
        identity, key, wanted = schedule_messages.change(principal, request)
        return await self._answer(caller, self._manager.update(principal, identity, key, wanted))

    async def DeleteSchedule(self, principal: Principal, request: pb.DeleteScheduleRequest, caller: Caller) -> Fields:
        identity, key = schedule_messages.deletion(principal, request)
        await self._in_time(caller, self._manager.delete(principal, identity, key))
        return {}

    async def _in_time(self, caller: Caller, work: Awaitable[T]) -> T:
        """Returns the result of `work`. Raises `errors.DeadlineExceeded` if it takes longer than the call may."""
        return await deadlines.within(self._pace.call_most, caller, work)

    async def _answer(self, caller: Caller, found: Awaitable[Schedule]) -> Fields:
        schedule = await self._in_time(caller, found)
        return {"schedule": schedule_messages.whole(schedule, self._manager.now())}
