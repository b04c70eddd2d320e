"""Label selectors with Kubernetes' syntax: `a=b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, joined by commas."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox_server.domain import check, errors

LENGTH_MOST = 4096
REQUIREMENTS_MOST = 32
"""In one selector: each is compared with every sandbox of the tenant, on the event loop."""

_PUNCTUATION = re.compile(r"[(),]")
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
    if len(text) > LENGTH_MOST:
        raise _invalid(field, f"must be at most {LENGTH_MOST} characters")
    parts = _parts(text)
    if len(parts) > REQUIREMENTS_MOST:
        raise _invalid(field, f"must have at most {REQUIREMENTS_MOST} requirements")
    return Selector(tuple(_requirement(field, part.strip()) for part in parts))


def _parts(text: str) -> list[str]:
    """What the commas outside of parentheses separate."""
    parts, begin, inside = [], 0, False
    for mark in _PUNCTUATION.finditer(text):
        if mark[0] != ",":
            inside = mark[0] == "("
        elif not inside:
            parts.append(text[begin : mark.start()])
            begin = mark.end()
    return [*parts, text[begin:]]


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
