"""What each mutation makes of a schedule, and whether it may."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from sandbox_server.domain import errors, selector, slots
from sandbox_server.domain.errors import Violation
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.schedule import Schedule, Target
from sandbox_server.domain.snapshot import Consistency

KEEP = 7
"""Snapshots that are kept where a caller does not say how many."""
KEEP_MOST = 1000
SCHEDULES_MOST = 100
"""Schedules of a tenant. Each is compared with every sandbox of its namespace; one can cover many by their labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a caller asks for. None: it does not say."""

    target: Target | None = None
    when: str | None = None
    keep: int | None = None
    before_delete: bool | None = None
    consistency: Consistency | None = None
    outlives_sandbox: bool | None = None


def not_found(schedule_id: str) -> errors.NotFound:
    """Returns the same error for a schedule that never existed and for one of another tenant."""
    message = f"there is no schedule {schedule_id!r}: check its id and namespace"
    return errors.NotFound("SCHEDULE_NOT_FOUND", message, schedule_id=schedule_id)


def new(key: Key, tenant: str, uid: str, wanted: Wanted, now: datetime) -> Schedule:
    """Returns a schedule that was just asked for, which must have a target. Raises `errors.Invalid`."""
    if wanted.target is None:
        raise errors.Invalid((Violation("target", "must have sandbox_id or label_selector"),))
    return _checked(
        Schedule(
            id=key.id,
            namespace=key.namespace,
            tenant=tenant,
            uid=uid,
            target=wanted.target,
            when=wanted.when or "",
            keep=KEEP if wanted.keep is None else wanted.keep,
            before_delete=bool(wanted.before_delete),
            consistency=wanted.consistency or Consistency.CRASH,
            outlives_sandbox=bool(wanted.outlives_sandbox),
            create_time=now,
            since=now,
        )
    )


def update(before: Schedule, wanted: Wanted, now: datetime) -> Schedule:
    """Returns a schedule with what a caller changes of it. Slots before the change do not count where others do, or of others.

    Raises `errors.Invalid`.
    """
    given = {name: value for name in wanted.__slots__ if (value := getattr(wanted, name)) is not None}
    after = replace(before, **given)
    if (after.when, after.target) != (before.when, before.target):
        after = replace(after, since=now)
    return _checked(after)


def violations(wanted: Wanted) -> Iterator[Violation]:
    """Yields what is wrong with what a caller asks for, whatever the schedule is now."""
    if wanted.when:
        yield from _raised(slots.parsed, wanted.when)
    if wanted.keep is not None and not 1 <= wanted.keep <= KEEP_MOST:
        yield Violation("keep", f"must be from 1 to {KEEP_MOST}")
    if wanted.target is not None and not wanted.target.sandbox_id:
        text = wanted.target.label_selector
        if not text.strip():
            yield Violation("label_selector", "must have a requirement, such as tier=web")
        yield from _raised(lambda one: selector.parse("label_selector", one), text)


def _raised(parse: Callable[[str], object], text: str) -> tuple[Violation, ...]:
    """Returns the violations for which `parse` refuses a text."""
    try:
        parse(text)
    except errors.Invalid as invalid:
        return invalid.violations
    return ()


def _checked(schedule: Schedule) -> Schedule:
    """Returns the schedule. Raises `errors.Invalid` if it has nothing to do."""
    if not schedule.when and not schedule.before_delete:
        raise errors.Invalid((Violation("when", f"{slots.TAKES}. It may be empty with before_delete"),))
    return schedule


def admit(tenant: str, count: int) -> None:
    """Permits another schedule to a tenant that has `count`. Raises `errors.ResourceExhausted`."""
    if count >= SCHEDULES_MOST:
        raise errors.ResourceExhausted(
            "TOO_MANY_SCHEDULES",
            f"the tenant {tenant!r} has {SCHEDULES_MOST} schedules, as many as it may: delete some, or cover several sandboxes "
            "with one by their labels",
            limit=str(SCHEDULES_MOST),
        )


def free(former: Schedule | None) -> None:
    """Raises `errors.AlreadyExists` if a schedule has an id."""
    if former is not None:
        raise errors.AlreadyExists(
            "SCHEDULE_EXISTS", f"the id {former.id!r} is taken: choose another, or change that schedule"
        )
