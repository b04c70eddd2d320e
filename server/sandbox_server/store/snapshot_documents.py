"""What the log of snapshots holds of a snapshot: a document for each event. The rules are those of `documents`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from sandbox_server.domain.snapshot import (
    Consistency,
    Contents,
    Snapshot,
    SnapshotEvent,
    SnapshotReason,
    State,
    Verification,
)
from sandbox_server.store import documents

VERSION = 4
"""Of the documents that this release writes: the next one with each member that is added."""


class Document(msgspec.Struct, kw_only=True):
    """The document of an event. A member with a default is not in the documents of every release."""

    id: str
    namespace: str
    tenant: str
    uid: str
    sandbox_id: str
    sandbox_uid: str
    volume_uid: str
    project: str
    size: str
    home_folder: str
    consistency: Consistency
    outlives_sandbox: bool
    labels: dict[str, str]
    create_time: datetime
    state: State
    reason: SnapshotReason
    message: str
    transition_time: datetime
    ready_time: datetime | None = None
    used_bytes: int = 0
    asked_to_go: bool = False
    start_generation: int = 0
    storage_class: str = ""
    access_mode: str = ""
    schedule_id: str = ""
    schedule_uid: str = ""
    before_delete: bool = False
    verification: Verification | None = None
    contents: Contents | None = None


class _Versioned(msgspec.Struct):
    version: int


_MEMBERS = Document.__struct_fields__
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Document)
_VERSION_DECODER = msgspec.json.Decoder(_Versioned)


def written(snapshot: Snapshot, former: str | None) -> str:
    """Returns the document of a snapshot. `former` is that of its event before, whose unknown members are kept."""
    members: Mapping[str, Any] = {name: getattr(snapshot, name) for name in _MEMBERS}
    made = _ENCODER.encode({"version": VERSION} | dict(members))
    if former is None or _VERSION_DECODER.decode(former).version <= VERSION:
        return made.decode()
    return documents.kept(former, Document, made)


def event(sequence: int, document: str) -> SnapshotEvent:
    """Returns the event of a sequence with this document."""
    stored = _DECODER.decode(document)
    return SnapshotEvent(sequence, Snapshot(**{name: getattr(stored, name) for name in _MEMBERS}))
