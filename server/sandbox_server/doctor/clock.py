"""Judges how far another clock is from this machine's."""

from datetime import timedelta

from sandbox_server.doctor.examination import Check
from sandbox_server.doctor.report import Result

NOTABLE = timedelta(seconds=2)
HARMFUL = timedelta(seconds=30)
"""Tokens and certificates are not valid yet, or no more, where clocks differ by as much."""


def judge(check: Check, ahead: timedelta) -> Result:
    """Returns what it means that a clock is that far ahead of this machine's."""
    seconds = ahead.total_seconds()
    message = f"its clock and this machine's differ by {abs(seconds):.1f} s"
    if abs(ahead) < NOTABLE:
        return check.ok(message)
    behind = "ahead of" if seconds > 0 else "behind"
    message = f"its clock is {abs(seconds):.0f} s {behind} this machine's"
    remedy = "set both by NTP; see `timedatectl status`"
    return check.failure(message, remedy) if abs(ahead) >= HARMFUL else check.warning(message, remedy)
