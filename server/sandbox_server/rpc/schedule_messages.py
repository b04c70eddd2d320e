"""The messages of ScheduleService: from requests to domain values, and from schedules to answers."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sandbox.v1 import schedule_pb2 as pb

from sandbox_server import manager, store
from sandbox_server.domain import check, schedule_mutations, slots
from sandbox_server.domain.errors import Violation
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.schedule import Schedule, Target
from sandbox_server.domain.schedule_mutations import Wanted
from sandbox_server.domain.tenant import Reach
from sandbox_server.rpc import convert, filters, render
from sandbox_server.rpc.snapshot_messages import CONSISTENCIES, bad_consistency

NamedRequest = pb.CreateScheduleRequest | pb.GetScheduleRequest | pb.UpdateScheduleRequest | pb.DeleteScheduleRequest


def creation(principal: Principal, request: pb.CreateScheduleRequest) -> tuple[store.Request | None, Key, Wanted]:
    """Returns the identity of the request, the key of the schedule, and what is asked for. Raises as `named`."""
    wanted = Wanted(
        target=_target(request),
        when=slots.written(request.when),
        keep=request.keep or None,
        before_delete=request.before_delete,
        consistency=CONSISTENCIES.get(request.consistency),
        outlives_sandbox=request.outlives_sandbox,
    )
    key = named(principal, request, _bad_fields(request, wanted))
    return convert.identity(principal, request), key, wanted


def change(principal: Principal, request: pb.UpdateScheduleRequest) -> tuple[store.Request | None, Key, Wanted]:
    """Returns the identity of the request, the key of the schedule, and what is to change. Raises as `named`."""

    wanted = Wanted(
        target=_target(request),
        when=slots.written(request.when) if request.HasField("when") else None,
        keep=request.keep if request.HasField("keep") else None,
        before_delete=request.before_delete if request.HasField("before_delete") else None,
        consistency=CONSISTENCIES.get(request.consistency) if request.HasField("consistency") else None,
        outlives_sandbox=request.outlives_sandbox if request.HasField("outlives_sandbox") else None,
    )
    key = named(principal, request, _bad_fields(request, wanted))
    return convert.identity(principal, request), key, wanted


def deletion(principal: Principal, request: pb.DeleteScheduleRequest) -> tuple[store.Request | None, Key]:
    """Returns the identity of the request, and the key of the schedule. Raises as `named`."""
    key = named(principal, request, [*check.request_id("request_id", request.request_id)])
    return convert.identity(principal, request), key


def named(principal: Principal, request: NamedRequest, violations: Sequence[Violation] = ()) -> Key:
    """Returns the key of the schedule that a request names.

    Raises `errors.Invalid` with `violations` and every other bad field. In another tenant's namespace there is no schedule: the
    key is of one that the principal does not see.
    """
    with convert.collecting() as found:
        found += violations
        found += check.sandbox_id("schedule_id", request.schedule_id, True)
        found += convert.bad_namespace(principal, request.namespace)
    return Key(request.namespace or principal.default_namespace, request.schedule_id)


def _bad_fields(request: pb.CreateScheduleRequest | pb.UpdateScheduleRequest, wanted: Wanted) -> list[Violation]:
    found = [*check.request_id("request_id", request.request_id), *bad_consistency(request.consistency)]
    if request.WhichOneof("target") == "sandbox_id":
        found += check.sandbox_id("sandbox_id", request.sandbox_id, True)
        if not request.sandbox_id:
            return found
    return [*found, *schedule_mutations.violations(wanted)]


def _target(request: pb.CreateScheduleRequest | pb.UpdateScheduleRequest) -> Target | None:
    if request.WhichOneof("target") is None:
        return None
    return Target(request.sandbox_id, request.label_selector)


def listed(principal: Principal, request: pb.ListSchedulesRequest) -> tuple[Reach, Key | None, int]:
    """Returns what to list, the key that the page begins after, and how many it has at most. Raises `errors.Invalid`."""
    with convert.collecting() as found:
        found += filters.bad_page_size(request.page_size)
        found += filters.bad_tenant(request.tenant)
        found += convert.bad_namespace(principal, request.namespace, names_sandboxes=False)
        after = filters.page_begin(request.page_token, found)
    return principal.reach(request.namespace, request.tenant), after, request.page_size or manager.PAGE_DEFAULT


def page(found: Sequence[Schedule], most: int, now: datetime) -> dict[str, Any]:
    """Returns the fields of a page of at most `most` of the schedules that were found, one more than that if there are more."""
    following = found[most - 1].key if len(found) > most else None
    return {"schedules": [whole(one, now) for one in found[:most]], "next_page_token": filters.page_token(following)}


def whole(schedule: Schedule, now: datetime) -> dict[str, Any]:
    """Returns the SnapshotSchedule message of a schedule."""
    missed = schedule.last_missed
    found = {
        "schedule_id": schedule.id,
        "namespace": schedule.namespace,
        "uid": schedule.uid,
        "tenant": schedule.tenant,
        "when": schedule.when,
        "keep": schedule.keep,
        "before_delete": schedule.before_delete,
        "consistency": schedule.consistency.value,
        "outlives_sandbox": schedule.outlives_sandbox,
        "create_time": render.time(schedule.create_time),
        "next_time": None
        if schedule.slots is None
        else render.time(schedule.slots.following(max(now, schedule.since))),
        "last_time": None if schedule.last_slot is None else render.time(schedule.last_slot),
        "missed": schedule.missed,
    }
    target = schedule.target
    found |= {"sandbox_id": target.sandbox_id} if target.sandbox_id else {"label_selector": target.label_selector}
    if missed is not None:
        found["last_missed"] = {
            "slot": render.time(missed.slot),
            "sandbox_id": missed.sandbox_id,
            "reason": missed.reason.value,
            "message": missed.message,
        }
    return found
