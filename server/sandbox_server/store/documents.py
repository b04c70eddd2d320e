"""What the log holds of a sandbox: a document for each event, and the parts that many events share.

The spec and the names of the variables can be large and change seldom: each is stored once, under the sequence of the
first event that has it.

Each document says its version. Releases of two versions may share a database, so a version only ever adds to the one
before it: an older release reads the document of a newer one as far as it knows it. Where it writes the sandbox's next
event or spec, it keeps what it does not know: values of an enumeration as their numbers, and members as they are. Nothing is
validated here: a spec is checked where it is made, and the rules of today do not apply to a spec that is stored.
"""

import functools
import sys
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from sandbox_server.domain.event import OBSERVED, Cause, Event, Kind
from sandbox_server.domain.phase import DesiredState, Reason
from sandbox_server.domain.sandbox import (
    Addresses,
    Adopted,
    LastSnapshot,
    ObjectNames,
    Origin,
    Sandbox,
    Status,
    Template,
)
from sandbox_server.domain.spec import PORTS, Port, Readiness, Resources, SandboxSpec, Storage

VERSION = 10
"""Of the documents that this release writes: the next one with each member that is added. Documents of version 1 say none.
They have a sequence, which is the row's, and in the first release also the parts."""
PARTS = ("spec", "env_names")
COLUMNS = ("sequence", "document", "spec_sequence", "env_names_sequence", "cause", "actor", "request_id", "method")
"""Of the log, in the order of `Row`."""


class Row(NamedTuple):
    """An event as it is stored, with the names of the variables. None is what the release that wrote it did not store."""

    sequence: int
    document: str
    spec_sequence: int | None
    env_names_sequence: int | None
    cause: int | None
    actor: str | None
    request_id: str | None
    method: str | None
    env_names: str | None


class Spec(msgspec.Struct, kw_only=True):
    """The document of a spec. A member with a default is not in the documents of every release."""

    project: str
    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    ports: tuple[Port, ...] = PORTS
    resources: Resources
    storage: Storage
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    runtime_class: str = ""
    readiness: Readiness = Readiness()
    grace_period_seconds: int = 10
    copy_image_home: bool = True


class Changes(msgspec.Struct):
    """The fields of the status that changed with the event of a sequence.

    A release of before version 5 that writes the next event leaves this as it is: it is about no other event.
    """

    sequence: int
    fields: tuple[str, ...]


class Document(msgspec.Struct, kw_only=True):
    """The document of an event. A member with a default is not in the documents of every release."""

    id: str
    namespace: str
    tenant: str
    uid: str
    host: str
    desired: DesiredState
    generation: int
    start_generation: int
    create_time: datetime
    attempt_at: datetime
    addresses: Addresses
    status: Status
    applied_generation: int = 0
    applied_revision: int = 0
    keep_volume: bool = False
    volume_uid: str = ""
    home_folder: str = ""
    filled_generation: int = 0
    disrupted_pod: str = ""
    disruptions: int = 0
    objects: ObjectNames | None = None
    template: Template | None = None
    origin: Origin | None = None
    adopted: Adopted | None = None
    last_snapshot: LastSnapshot | None = None
    changed: Changes | None = None


class _Whole(Document):
    """A document of the first release has the parts in it."""

    spec: Spec | None = None
    env_names: tuple[str, ...] | None = None


class _Versioned(msgspec.Struct):
    version: int = 1


_MEMBERS = tuple(name for name in Document.__struct_fields__ if name != "changed")
"""Those that are of the sandbox."""
_SPEC_MEMBERS = Spec.__struct_fields__
_KINDS = {one.value: one for one in Kind}
_LASTING = ("objects", "addresses", "adopted", "status", "resources", "storage")
"""Objects in a document that last as long as the sandbox. Any other describes one thing that was seen or asked for: of the
next one nothing is true that a newer release said of the one before."""

_BEGINNING = f'{{"version":{VERSION},'
"""Of the documents that this release writes."""
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(_Whole)
_VERSION_DECODER = msgspec.json.Decoder(_Versioned)
_SPEC_DECODER = msgspec.json.Decoder(Spec)
_NAMES_DECODER = msgspec.json.Decoder(tuple[str, ...])

_SPECS = weakref.WeakValueDictionary[tuple[str, int], SandboxSpec]()
"""Specs by the sandbox's uid and their sequence, while anybody has them: the events of a sandbox share one in memory."""


def of_newer_release(document: str) -> bool:
    """Whether a newer release wrote the document, or has written what was kept in it."""
    return not document.startswith(_BEGINNING) and _VERSION_DECODER.decode(document).version > VERSION


def document(event: Event, newer: str | None = None) -> str:
    """Returns the document of an event: all but the parts. It has no value of an environment variable.

    `newer` is the document of the sandbox's event before it, if a newer release wrote that.
    """
    changed = None if event.changed is None else Changes(event.sequence, event.changed)
    members = {name: getattr(event.sandbox, name) for name in _MEMBERS}
    made = _ENCODER.encode({"version": VERSION, "changed": changed} | members)
    return made.decode() if newer is None else kept(newer, Document, made)


def kept(newer: str, kind: type[msgspec.Struct], made: bytes) -> str:
    """Returns the document `made` with what `newer`, the one before it, has beyond the members of `kind`."""
    stored = msgspec.json.decode(newer)
    read = msgspec.json.decode(_ENCODER.encode(msgspec.json.decode(newer, type=kind)))
    return _ENCODER.encode(_rewritten(stored, read, msgspec.json.decode(made))).decode()


def _rewritten(stored: Mapping[str, Any], read: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `stored` with the changes from `read`, which is what this release knows of it, to `made`."""
    written = dict(stored)
    for name, value in made.items():
        if name == "version" or (name in read and read[name] == value):
            continue
        lasts = name in _LASTING and name in stored
        written[name] = _rewritten(stored[name], read[name], value) if lasts else value
    return written


def spec(value: SandboxSpec, former: str | None = None) -> str:
    """Returns the document of a spec. `former` is that of the sandbox's spec before it."""
    made = _ENCODER.encode({"version": VERSION} | {name: getattr(value, name) for name in _SPEC_MEMBERS})
    return kept(former, Spec, made) if former is not None and of_newer_release(former) else made.decode()


def env_names(value: tuple[str, ...]) -> str:
    """Returns the document of the names of the variables."""
    return _ENCODER.encode(value).decode()


def remember(uid: str, sequence: int, value: SandboxSpec) -> None:
    """Keeps in memory, while anybody has it, the spec of a sandbox that a commit has stored under a sequence."""
    _SPECS.setdefault((uid, sequence), value)


def events(found: Sequence[Row], specs: Callable[[Collection[int]], Iterable[tuple[int, str]]]) -> Iterator[Event]:
    """Returns the events of rows. `specs` reads the specs of some sequences: those that memory does not have."""
    decoded = [_DECODER.decode(one.document) for one in found]
    owners = {row.spec_sequence: one.uid for row, one in zip(found, decoded, strict=True) if row.spec_sequence}
    known = {sequence: spec for sequence, uid in owners.items() if (spec := _SPECS.get((uid, sequence)))}
    if missing := owners.keys() - known.keys():
        for sequence, text in specs(missing):
            known[sequence] = _SPECS.setdefault((owners[sequence], sequence), _spec(_SPEC_DECODER.decode(text)))
    return map(functools.partial(_event, known), found, decoded)


def _event(known: Mapping[int, SandboxSpec], row: Row, stored: _Whole) -> Event:
    members = {name: getattr(stored, name) for name in _MEMBERS}
    if stored.objects is None:
        # Releases that did not store the names made the same ones.
        members["objects"] = ObjectNames.of(stored.id)
    sandbox = Sandbox(
        spec=known[row.spec_sequence] if row.spec_sequence else _spec(stored.spec),
        env_names=stored.env_names or () if row.env_names is None else _NAMES_DECODER.decode(row.env_names),
        **members,
    )
    return Event(row.sequence, sandbox, _cause(row, sandbox), _changed(row, stored))


def _changed(row: Row, stored: Document) -> tuple[str, ...] | None:
    """Returns the fields of the status that the event has changed; None if that was not stored."""
    changed = stored.changed
    if changed is None or changed.sequence != row.sequence:
        return None
    # Memory has one copy of each name.
    return tuple(map(sys.intern, changed.fields))


def _spec(stored: Any) -> SandboxSpec:
    """Returns the spec, without the checks of its constructor."""
    spec = object.__new__(SandboxSpec)
    for name in _SPEC_MEMBERS:
        object.__setattr__(spec, name, getattr(stored, name))
    return spec


def _cause(row: Row, sandbox: Sandbox) -> Cause:
    """Returns the cause of an event. Where none was stored, it follows from the reason of the status."""
    if row.cause is not None:
        kind = _KINDS.get(row.cause) or Kind(row.cause)
        return (
            OBSERVED if kind is Kind.OBSERVED else Cause(kind, row.actor or "", row.request_id or "", row.method or "")
        )
    mutated = sandbox.status.reason is Reason.ACCEPTED
    return Cause(Kind.MUTATION, sandbox.tenant) if mutated else OBSERVED
