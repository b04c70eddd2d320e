"""The client of the Sandbox Service: `Client`, and `AsyncClient` for asyncio.

>>> with Client("127.0.0.1:50051") as client:
...     sandbox = client.create("demo", command=["sleep", "1000"], labels={"tier": "web"})
...     status = Status.of(client.wait_until(sandbox, "RUNNING"))
>>> print(status.phase)
RUNNING
"""

from sandbox_client.aio import AsyncClient
from sandbox_client.aio_filing import AsyncFiles
from sandbox_client.aio_running import AsyncExec
from sandbox_client.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    SandboxFailed,
    ServiceError,
    SnapshotFailed,
    TimedOut,
    Unauthenticated,
    Unavailable,
    VerificationFailed,
)
from sandbox_client.filing import Files
from sandbox_client.logs import LogEnded, LogGap, LogLines
from sandbox_client.output import Channel, Completed, Ended, Gap, Output
from sandbox_client.running import Exec
from sandbox_client.specs import Resources
from sandbox_client.status import Phase, Remedy, Status
from sandbox_client.sync import Client
from sandbox_client.watch import Event, Kind, SnapshotEvent

__all__ = [
    "Aborted",
    "AlreadyExists",
    "AsyncClient",
    "AsyncExec",
    "AsyncFiles",
    "Channel",
    "Client",
    "Completed",
    "Ended",
    "Event",
    "Exec",
    "FailedPrecondition",
    "Files",
    "Gap",
    "InvalidArgument",
    "Kind",
    "LogEnded",
    "LogGap",
    "LogLines",
    "NotFound",
    "OutOfRange",
    "Output",
    "PermissionDenied",
    "Phase",
    "Remedy",
    "Resources",
    "SandboxFailed",
    "ServiceError",
    "SnapshotEvent",
    "SnapshotFailed",
    "Status",
    "TimedOut",
    "Unauthenticated",
    "Unavailable",
    "VerificationFailed",
]
