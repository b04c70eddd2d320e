"""Label selectors with Kubernetes' syntax: `a=b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, joined by commas."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox_server.domain import errors

_KEY = r"(?:[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
_EQUAL = re.compile(rf"({_KEY})\s*(==|=|!=)\s*({_VALUE})\Z")
_SET = re.compile(rf"({_KEY})\s+(in|notin)\s*\(([^()]*)\)\Z")
_EXISTS = re.compile(rf"(!?)\s*({_KEY})\Z")
_COMMA = re.compile(r",(?![^(]*\))")
_ONE = re.compile(rf"{_VALUE}\Z")


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
    if match := _EQUAL.match(part):
        key, operator, value = match.groups()
        return Requirement(key, frozenset({value}), operator != "!=")
    if match := _SET.match(part):
        key, operator, listed = match.groups()
        values = frozenset(one.strip() for one in listed.split(","))
        if all(_ONE.match(one) for one in values):
            return Requirement(key, values, operator == "in")
    elif match := _EXISTS.match(part):
        return Requirement(match[2], frozenset(), not match[1])
    raise _invalid(field, "must be requirements such as a=b, a!=b, a in (b,c), a notin (b,c), a, !a joined by commas")


def _invalid(field: str, description: str) -> errors.Invalid:
    return errors.Invalid((errors.Violation(field, description),))
