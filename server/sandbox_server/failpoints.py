"""Named places at which a test kills the service, stalls it or makes it fail.

A place is `failpoints.hit("after_commit")`. It does nothing unless the setting `failpoints` arms its name:
`SANDBOX_FAILPOINTS=after_commit=kill@2,after_act=sleep:1.5` kills the process at the second hit of one place, and stalls it
at each hit of the other. `raise` raises `Injected`.
"""

import os
import re
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass

NAMES = frozenset(
    {
        "before_commit",
        "after_commit",
        "after_publish",
        "before_answer",
        "before_act",
        "after_act",
        "snapshot_before_act",
        "snapshot_after_act",
        "verification_before_act",
        "verification_after_act",
        "kubernetes_before_write",
        "kubernetes_after_write",
        "home_sent",
        "home_verified",
        "local_folder_made",
        "local_volume_labelled",
        "local_volume_made",
        "local_process_spawned",
        "local_process_recorded",
        "local_process_started",
        "local_entry_removed",
        "local_folder_removed",
        "local_copy_begun",
        "local_copy_entry",
        "local_copy_labelled",
        "local_copy_made",
        "local_scratch_counted",
        "local_disk_hidden",
        "local_disk_entry_removed",
        "leases_before_commit",
        "leases_after_commit",
        "leases_taken",
        "leases_before_give_up",
        "migrated_before_commit",
        "schedule_before_commit",
        "schedule_after_commit",
        "last_snapshot_before_say",
        "snapshot_before_commit",
        "snapshot_after_commit",
        "trimmed_before_commit",
        "trimmed_page",
        "reencrypted_before_commit",
        "reencrypted_page",
        "imported_facts",
        "shutdown_handed_over",
        "shutdown_watches_ended",
        "shutdown_calls_ended",
        "shutdown_tasks_ended",
        "shutdown_closed",
    }
)
"""Every place. A test compares them with the source, and requires a test that kills the service at each."""

_SYNTAX = re.compile(
    r"(?P<name>\w+)=(?P<act>kill|raise|sleep:(?P<seconds>\d{1,4}(\.\d+)?))(@(?P<number>[1-9]\d{0,8}))?"
)


class Injected(Exception):
    """A failure that a failpoint was armed with."""


@dataclass(frozen=True, slots=True)
class Failpoint:
    """What happens at a place: at each hit, or only at the hit with a number, counted from 1."""

    name: str
    act: str
    seconds: float = 0
    number: int = 0


_armed: dict[str, Failpoint] = {}
_hits: dict[str, int] = {}


def parsed(text: str) -> tuple[Failpoint, ...]:
    """Returns the failpoints of a setting. Raises ValueError, which names what is mistyped."""
    found = []
    for word in filter(None, text.split(",")):
        match = _SYNTAX.fullmatch(word)
        if match is None:
            raise ValueError(f"{word!r} must be NAME=kill, NAME=raise or NAME=sleep:SECONDS, and may end with @NUMBER")
        if match["name"] not in NAMES:
            raise ValueError(f"there is no failpoint {match['name']!r}: use one of {', '.join(sorted(NAMES))}")
        act = match["act"].partition(":")[0]
        found.append(Failpoint(match["name"], act, float(match["seconds"] or 0), int(match["number"] or 0)))
    return tuple(found)


def arm(failpoints: Iterable[Failpoint]) -> None:
    """Arms these failpoints and no others, and counts their hits from here on."""
    _hits.clear()
    _armed.clear()
    _armed.update((one.name, one) for one in failpoints)


def hit(name: str) -> None:
    """Does what the place is armed with; nothing where it is not.

    A sleep stops the thread, and on the loop the whole service, as a process that gets no processor time.
    """
    if name in _armed:
        _act(_armed[name])


def _act(failpoint: Failpoint) -> None:
    _hits[failpoint.name] = number = _hits.get(failpoint.name, 0) + 1
    if failpoint.number not in (0, number):
        return
    match failpoint.act:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raise":
            raise Injected(failpoint.name)
        case _:
            time.sleep(failpoint.seconds)
