"""Label selectors with Kubernetes' syntax: `a=b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, joined by commas."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox_server.domain import check, errors

_COMMA = re.compile(r",(?![^(]*\))")
_COMPARED = re.compile(r"([^\s!=]+)(?:\s*(==?|!=)([^()]*)|\s+(in|notin)\s*\(([^()]*)\))")


@dataclass(frozen=True, slots=True)
class Requirement:
    """A key whose value must (`wanted`) or must not be among `values`; without values, be there at all."""

    key: str
    values: frozenset[str]
    wanted: bool

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels fulfil it."""
        present = self.key in labels
        return (present and (not self.values or labels[self.key] in self.values)) is self.wanted


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold; with none, everything matches."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels fulfil all of it."""
        return all(one.matches(labels) for one in self.requirements)


EVERYTHING = Selector()


def parse(field: str, text: str) -> Selector:
    """Reads a selector; raises `errors.Invalid` naming `field`."""
    if not text.strip():
        return EVERYTHING
    if len(text) > 4096:
        raise _invalid(field, "must be at most 4096 characters")
    return Selector(tuple(_requirement(field, part.strip()) for part in _COMMA.split(text)))


def _requirement(field: str, part: str) -> Requirement:
    key, values, wanted = part.removeprefix("!").lstrip(), frozenset[str](), not part.startswith("!")
    if match := _COMPARED.fullmatch(part):
        key, equal, value, among, listed = match.groups()
        values = frozenset(one.strip() for one in (value if equal else listed).split(","))
        wanted = (equal or among) in ("=", "==", "in")
    if not check.key.fits(key) or not all(map(check.label.fits, values)):
        raise _invalid(
            field, "must be requirements such as a=b, a!=b, a in (b,c), a notin (b,c), a, !a joined by commas"
        )
    return Requirement(key, values, wanted)


def _invalid(field: str, description: str) -> errors.Invalid:
    return errors.Invalid((errors.Violation(field, description),))
