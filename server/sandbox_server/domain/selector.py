"""Label selectors in Kubernetes' syntax: `a=b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, joined by commas."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox_server.domain import check, errors

LENGTH_MOST = 4096
REQUIREMENTS_MOST = 32
"""In one selector. Each is compared with every sandbox of the tenant, on the event loop."""

_PUNCTUATION = re.compile(r"[(),]")
_COMPARED = re.compile(r"([^\s!=]+)(?:\s*(==?|!=)([^()]*)|\s+(in|notin)\s*\(([^()]*)\))")


@dataclass(frozen=True, slots=True)
class Requirement:
    """A label that must be present with one of `values`, or with any value if there are none.

    With `negated` it is the opposite: the label must be absent or have another value.
    """

    key: str
    values: frozenset[str]
    negated: bool

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels meet the requirement."""
        found = self.key in labels and (not self.values or labels[self.key] in self.values)
        return found is not self.negated


@dataclass(frozen=True, slots=True)
class Selector:
    """Requirements that must all be met. Without any, everything matches."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels meet all requirements."""
        return all(one.matches(labels) for one in self.requirements)


EVERYTHING = Selector()


def parse(field: str, text: str) -> Selector:
    """Returns the selector that `text` describes. Raises `errors.Invalid` with `field` as the bad field."""
    if not text.strip():
        return EVERYTHING
    if len(text) > LENGTH_MOST:
        raise _invalid(field, f"must be at most {LENGTH_MOST} characters")
    parts = _parts(text)
    if len(parts) > REQUIREMENTS_MOST:
        raise _invalid(field, f"must have at most {REQUIREMENTS_MOST} requirements")
    return Selector(tuple(_requirement(field, part.strip()) for part in parts))


def _parts(text: str) -> list[str]:
    """Splits at the commas outside of parentheses."""
    parts = []
    begin = 0
    inside = False
    for mark in _PUNCTUATION.finditer(text):
        if mark[0] != ",":
            inside = mark[0] == "("
        elif not inside:
            parts.append(text[begin : mark.start()])
            begin = mark.end()
    return [*parts, text[begin:]]


def _requirement(field: str, part: str) -> Requirement:
    compared = _COMPARED.fullmatch(part)
    if compared is None:
        key = part.removeprefix("!").lstrip()
        values = frozenset[str]()
        negated = part.startswith("!")
    else:
        key, comparison, value, membership, listed = compared.groups()
        text = value if comparison else listed
        values = frozenset(one.strip() for one in text.split(","))
        negated = (comparison or membership) in ("!=", "notin")
    if not check.key.fits(key) or not all(map(check.label.fits, values)):
        raise _invalid(
            field, "must be requirements such as a=b, a!=b, a in (b,c), a notin (b,c), a, !a joined by commas"
        )
    return Requirement(key, values, negated)


def _invalid(field: str, description: str) -> errors.Invalid:
    return errors.Invalid((errors.Violation(field, description),))
