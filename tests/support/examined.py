"""What an examination finds."""

import os
from collections.abc import Mapping
from typing import Any

from sandbox_server import doctor
from sandbox_server.doctor.report import Result, Status
from sandbox_server.settings import Settings

Found = dict[tuple[str, str], list[Result]]
"""The results of each check of each subject."""


async def examined(environment: Mapping[str, str] = os.environ, **settings: Any) -> Found:
    found: Found = {}
    for one in await doctor.examine(Settings(**settings), environment):
        found.setdefault((one.check, one.subject), []).append(one)
    return found


def only(found: Found, check: str, subject: str = "") -> Result:
    """The one result of a check."""
    (result,) = found[check, subject]
    return result


def not_well(found: Found) -> list[Result]:
    """What is not ok."""
    results = [one for several in found.values() for one in several if one.status is not Status.OK]
    # Each failure says what to do.
    assert all(one.remedy for one in results if one.status in (Status.FAILURE, Status.WARNING)), results
    return results
