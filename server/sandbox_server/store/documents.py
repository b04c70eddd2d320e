"""What the log holds of a sandbox: a document for each event, and the parts that many events share.

The spec and the names of the variables can be large and change seldom: each is stored once, under the sequence of the
first event that has it. The documents of the first release have both in them, and are read for ever.
"""

import dataclasses
import typing
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from sandbox_server.domain.event import OBSERVED, Cause, Event, Kind
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.spec import SandboxSpec

PARTS = ("spec", "env_names")


COLUMNS = ("sequence", "document", "spec_sequence", "env_names_sequence", "cause", "actor", "request_id")
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
    env_names: str | None

    def caused(self, sandbox: Sandbox) -> Cause:
        """Returns the cause; `sandbox` as the event has it tells it where none was stored."""
        if self.cause is not None:
            return Cause(Kind(self.cause), self.actor or "", self.request_id or "")
        mutated = sandbox.status.reason is Reason.ACCEPTED
        return Cause(Kind.MUTATION, sandbox.tenant) if mutated else OBSERVED


_HINTS = typing.get_type_hints(Sandbox)
_OWN = tuple(one for one in dataclasses.fields(Sandbox) if one.name not in PARTS)


def _field(one: dataclasses.Field[Any]) -> Any:
    if one.default_factory is not dataclasses.MISSING:
        return msgspec.field(default_factory=one.default_factory)
    return msgspec.field() if one.default is dataclasses.MISSING else msgspec.field(default=one.default)


_SPEC_HINTS = typing.get_type_hints(SandboxSpec)
_Spec: Any = msgspec.defstruct(
    "_Spec", [(one.name, _SPEC_HINTS[one.name], _field(one)) for one in dataclasses.fields(SandboxSpec)], kw_only=True
)
"""A spec as it was stored: limits that are newer do not apply to it."""
_Document: Any = msgspec.defstruct(
    "_Document",
    [
        *((one.name, _HINTS[one.name]) for one in _OWN if one.default is dataclasses.MISSING),
        *((one.name, _HINTS[one.name], one.default) for one in _OWN if one.default is not dataclasses.MISSING),
        ("spec", _Spec | None, None),
        ("env_names", _HINTS["env_names"] | None, None),
    ],
)
_DECODER = msgspec.json.Decoder(_Document)
_SPEC = msgspec.json.Decoder(_Spec)
_NAMES = msgspec.json.Decoder(tuple[str, ...])
_ENCODER = msgspec.json.Encoder()

_SPECS = weakref.WeakValueDictionary[tuple[str, int], SandboxSpec]()
"""Specs by the sandbox's uid and their sequence, while anybody has them: the events of a sandbox share one in memory."""


def document(value: Sandbox) -> str:
    """The document of an event: all but the parts. It has no value of an environment variable."""
    return _ENCODER.encode({one.name: getattr(value, one.name) for one in _OWN}).decode()


def part(value: Sandbox, name: str) -> str:
    """A part of a sandbox."""
    return _ENCODER.encode(getattr(value, name)).decode()


def _spec(stored: Any) -> SandboxSpec:
    """The spec without the checks of its making."""
    spec = object.__new__(SandboxSpec)
    for one in dataclasses.fields(SandboxSpec):
        object.__setattr__(spec, one.name, getattr(stored, one.name))
    return spec


def events(found: Sequence[Row], specs: Callable[[Collection[int]], Iterable[tuple[int, str]]]) -> list[Event]:
    """The events of rows. `specs` reads the specs of some sequences; it is asked for those that memory does not have."""
    decoded = [_DECODER.decode(one.document) for one in found]
    owners = {row.spec_sequence: one.uid for row, one in zip(found, decoded, strict=True) if row.spec_sequence}
    known = {sequence: spec for sequence, uid in owners.items() if (spec := _SPECS.get((uid, sequence)))}
    if missing := owners.keys() - known.keys():
        for sequence, text in specs(missing):
            known[sequence] = _SPECS.setdefault((owners[sequence], sequence), _spec(_SPEC.decode(text)))
    sandboxes = [
        Sandbox(
            spec=known[row.spec_sequence] if row.spec_sequence else _spec(one.spec),
            env_names=one.env_names if row.env_names is None else _NAMES.decode(row.env_names),
            **{field.name: getattr(one, field.name) for field in _OWN},
        )
        for row, one in zip(found, decoded, strict=True)
    ]
    return [Event(row.sequence, one, row.caused(one)) for row, one in zip(found, sandboxes, strict=True)]
