"""What the database holds of a schedule, and of a sandbox that one covers: a document each. The rules are those of `documents`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from sandbox_server.domain.schedule import Covered, Missed, Schedule, Target
from sandbox_server.domain.snapshot import Consistency
from sandbox_server.store import documents

VERSION = 1
"""Of the documents that this release writes: the next one with each member that is added."""


class ScheduleDocument(msgspec.Struct, kw_only=True):
    """The document of a schedule. A member with a default is not in the documents of every release."""

    id: str
    namespace: str
    tenant: str
    uid: str
    target: Target
    when: str
    keep: int
    before_delete: bool
    consistency: Consistency
    outlives_sandbox: bool
    create_time: datetime
    since: datetime
    last_slot: datetime | None = None
    missed: int = 0
    last_missed: Missed | None = None


class CoveredDocument(msgspec.Struct, kw_only=True):
    """The document of a sandbox that a schedule covers. A member with a default is not in the documents of every release."""

    schedule_uid: str
    sandbox_uid: str
    namespace: str
    sandbox_id: str
    since: datetime
    slot: datetime | None = None
    snapshot_id: str = ""
    snapshot_uid: str = ""
    snapshot_slot: datetime | None = None


class _Versioned(msgspec.Struct):
    version: int


D = TypeVar("D", bound=msgspec.Struct)

_ENCODER = msgspec.json.Encoder()
_SCHEDULE = msgspec.json.Decoder(ScheduleDocument)
_COVERED = msgspec.json.Decoder(CoveredDocument)
_VERSION_DECODER = msgspec.json.Decoder(_Versioned)


def written(value: Schedule | Covered, former: str | None) -> str:
    """Returns the document of a value. `former` is the one that it takes the place of, whose unknown members are kept."""
    kind: type[msgspec.Struct] = ScheduleDocument if isinstance(value, Schedule) else CoveredDocument
    members: Mapping[str, Any] = {name: getattr(value, name) for name in kind.__struct_fields__}
    made = _ENCODER.encode({"version": VERSION} | dict(members))
    if former is None or _VERSION_DECODER.decode(former).version <= VERSION:
        return made.decode()
    return documents.kept(former, kind, made)


def schedule(document: str) -> Schedule:
    """Returns the schedule of a document."""
    return Schedule(**_members(_SCHEDULE.decode(document)))


def covered(document: str) -> Covered:
    """Returns the sandbox that a schedule covers, of a document."""
    return Covered(**_members(_COVERED.decode(document)))


def _members(document: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(document, name) for name in document.__struct_fields__}
