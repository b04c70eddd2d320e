"""How full disks are, in GetVolumeUsage and in a status."""

import asyncio
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sandbox_server.access.files import Files
from sandbox_server.domain import errors
from sandbox_server.domain.principal import Principal
from sandbox_server.domain.sandbox import Key
from sandbox_server.domain.usage import Usage
from sandbox_server.rpc import render
from sandbox_server.rpc.auth import Caller


class Answer(NamedTuple):
    """What a status says of a disk. `usage`: the fields of a DiskUsage, or None; `missing`: those of a UsageMissing then."""

    usage: dict[str, Any] | None
    missing: dict[str, Any] | None


def fields(usage: Usage) -> dict[str, Any]:
    """Returns the fields of a usage that was measured just now."""
    return {
        "used_bytes": usage.used,
        "capacity_bytes": usage.capacity,
        "used_inodes": usage.used_inodes,
        "capacity_inodes": usage.inodes,
        "measured_at": render.time(datetime.now(UTC)),
    }


async def measured(files: Files, principal: Principal, key: Key, most: float, caller: Caller) -> Answer:
    """Measures a disk for at most `most` seconds, and at most half of the time that the call has left."""
    remaining = caller.time_remaining()
    seconds = most if remaining is None else min(most, remaining / 2)
    try:
        principal.permit("GetVolumeUsage")
        async with asyncio.timeout(seconds):
            return Answer(fields(await files.usage(principal, key)), None)
    except TimeoutError:
        message = f"the sandbox did not answer within {seconds:.1f} s: repeat the call, with more time"
        return Answer(None, {"reason": "DEADLINE_EXCEEDED", "message": message})
    except errors.ServiceError as error:
        return Answer(None, {"reason": error.reason, "message": error.message})
