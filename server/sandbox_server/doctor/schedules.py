"""Judges the schedules of snapshots by what they have recorded."""

from collections.abc import Sequence
from datetime import datetime

from sandbox_server.doctor.clock import HARMFUL
from sandbox_server.doctor.examination import Check
from sandbox_server.doctor.report import Result
from sandbox_server.domain.schedule import MissedReason, Schedule

_REMEDIES = {
    MissedReason.NOT_RUN: "see to it that a replica of this release runs at all times",
    MissedReason.NO_DISK: "start the sandbox, which has no disk before",
    MissedReason.NOT_STOPPED: "stop the sandbox before its slots, or give the schedule CONSISTENCY_CRASH",
    MissedReason.TOO_MANY_SNAPSHOTS: "delete snapshots, lower `keep` of schedules, or raise `snapshots-per-tenant`",
    MissedReason.ID_TAKEN: "delete the snapshots that have the ids of the slot",
}
_OTHERWISE = "see the message, and the snapshot that it names with `sandboxctl snapshot get`"


def judge(check: Check, schedules: Sequence[Schedule], now: datetime) -> list[Result]:
    """Returns what it means that slots were missed after the last one that has a snapshot, or that this one is yet to come."""
    found = []
    for one in schedules:
        if one.last_slot is not None and one.last_slot > now + HARMFUL:
            message = (
                f"the schedule {one.namespace}/{one.id} has a snapshot of the slot {one.last_slot:%Y-%m-%d %H:%M} UTC, which is yet "
                "to come: the clock of a replica was ahead, and slots may be left out until then"
            )
            found.append(check.warning(message, "set the clocks of all machines by NTP; see `timedatectl status`"))
            continue
        missed = one.last_missed
        if missed is None or (one.last_slot is not None and missed.slot < one.last_slot):
            continue
        message = (
            f"the schedule {one.namespace}/{one.id} has missed the slot {missed.slot:%Y-%m-%d %H:%M} UTC of "
            f"{missed.sandbox_id}: {missed.reason.name}: {missed.message}"
        )
        found.append(check.warning(message, _REMEDIES.get(missed.reason, _OTHERWISE)))
    return found or [check.ok(f"none of {len(schedules)} has missed its last slot")]
