"""What a spec asks for that another spec does not have."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sandbox.v1 import sandbox_pb2 as pb

_QUANTITY = re.compile(r"([0-9.]+)(?:[eE]([+-]?[0-9]+)|([numkMGTPE]|[KMGTPE]i)?)")
_SUFFIXES = {
    "": Decimal(1),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("n", "u", "m"), -3)},
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}


_FIXED = ("project", "storage.storage_class", "storage.access_mode", "runtime_class", "copy_image_home")
"""The fields of a spec, and the members of one, that no update changes."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A field of a spec by its path, such as `resources.cpu_limit`, with what is there and what was asked for."""

    path: str
    there: str
    asked: str

    @property
    def fixed(self) -> bool:
        """Whether only another sandbox can have the value."""
        return self.path in _FIXED

    @property
    def masked(self) -> str:
        """The path for the mask of an update: of `readiness` the whole."""
        return "readiness" if self.path.startswith("readiness.") else self.path

    def __str__(self) -> str:
        return f"spec.{self.path} is {self.there or 'unset'}, not {self.asked}"


def differences(asked: pb.SandboxSpec, found: pb.SandboxSpec) -> Iterator[Difference]:
    """Yields the differences in all that `asked` has."""
    for field, value in asked.ListFields():
        yield from _differences(field.name, value, getattr(found, field.name))


def _differences(path: str, asked: Any, found: Any) -> Iterator[Difference]:
    if isinstance(asked, pb.Resources | pb.Storage | pb.Readiness):
        for field, value in asked.ListFields():
            there = getattr(found, field.name)
            if _amount(value) != _amount(there):
                yield Difference(f"{path}.{field.name}", str(there), str(value))
    elif _plain(asked) != _plain(found):
        yield Difference(path, _shown(found), _shown(asked))


def _plain(value: Any) -> Any:
    if isinstance(value, str | int):
        return value
    if hasattr(value, "items"):
        return dict(value)
    return [_port(one) if isinstance(one, pb.Port) else one for one in value]


def _port(port: pb.Port) -> str:
    return f"{port.name or f'port-{port.number}'} {port.number}"


def _amount(value: Any) -> Any:
    """Returns the number of a Kubernetes quantity such as `500m` or `2Gi`, and anything else as it is."""
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if found is None or found[1].count(".") > 1 or not found[1].strip("."):
        return value
    if found[2]:
        return Decimal(found[1]).scaleb(int(found[2])) if len(found[2]) < 4 else value
    return Decimal(found[1]) * _SUFFIXES[found[3] or ""]


def _shown(value: Any) -> str:
    return str(_plain(value))
