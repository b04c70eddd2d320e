"""Judges what callers send: one violation for each bad field, which names the field and never shows its value."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from sandbox_server.domain.errors import Violation

ID_MOST = 52
"""StatefulSet names: the controller's revision label adds 11 characters, and a label holds 63."""
WORDS_TOTAL_MOST = 256 * 1024
"""Bytes of a command, and of its arguments, as they are written: both are in the pod's template, of which the StatefulSet
controller keeps each revision as JSON, and etcd takes 1.5 MiB of an object."""
_SIX_BYTES = "<>&" + "".join(map(chr, {*range(32)} - {*b"\n\r\t"}))
"""What Go's encoding/json writes as \\u003c and the like."""
_TWO_BYTES = '"\\\n\r\t$'
"""What it writes behind a backslash; and $, which is doubled, or Kubernetes would replace it."""
_LINE_ENDS = "\u2028\u2029"
"""Three bytes of UTF-8 that it writes as six."""
GRACE_PERIOD_MOST = 3600
"""Seconds."""
ENV_VARIABLES_MOST = 1000
ENV_TOTAL_MOST = 512 * 1024
"""Bytes of names and values: half of the 1 MiB that a Secret holds, since its encoding grows it by a third."""

QUANTITY_MOST = 64
"""Characters of a quantity: its arithmetic is exact."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a field takes: in words, after `must be`, and as what finds something in a value that is right."""

    takes: str
    fits: Callable[[str], Any]
    fault: Callable[[str], str] = lambda _: ""
    """What is wrong with the form of a value that does not fit, without showing it; empty where `takes` says it all."""

    def __call__(self, field: str, value: str, required: bool = False) -> tuple[Violation, ...]:
        """The violation, if there is one. What is empty is unset, and bad only where something is required."""
        if value:
            return () if self.fits(value) else (self.violation(field, value),)
        return (Violation(field, "is required"),) if required else ()

    def violation(self, field: str, value: str) -> Violation:
        """What is said of a value that does not fit."""
        fault = self.fault(value)
        return Violation(field, f"must be {self.takes}{fault and ': '}{fault}")


def _text(pattern: str, takes: str) -> Kind:
    return Kind(takes, re.compile(pattern).fullmatch)


def _label(first: str, most: int, takes: str) -> Kind:
    pattern = rf"[{first}]([-a-z0-9]{{0,{most - 2}}}[a-z0-9])?"
    return _text(pattern, f"a DNS label of at most {most} characters: {takes}")


def _data(most: int) -> Kind:
    def fits(value: str) -> bool:
        try:
            return "\0" not in value and len(value.encode()) <= most
        except UnicodeEncodeError:
            return False

    return Kind(f"at most {most} bytes of UTF-8 without NUL", fits)


def _quantity(takes: str, least: str, most: int, step: str = "") -> Kind:
    """A quantity of Kubernetes within bounds, and a multiple of `step` where there is one. Finds it as a Fraction."""

    def judged(value: str) -> Fraction | str:
        amount = _amount(value)
        if isinstance(amount, str):
            return amount
        if amount <= 0:
            return "it is not more than 0"
        if amount < Fraction(least):
            return f"it is less than {least} (the suffix m is a thousandth)"
        if amount > most:
            return "it is above the maximum"
        return f"it is no multiple of {step}" if step and amount % Fraction(step) else amount

    def fits(value: str) -> Fraction | None:
        return amount if isinstance(amount := judged(value), Fraction) else None

    def fault(value: str) -> str:
        return wrong if isinstance(wrong := judged(value), str) else ""

    return Kind(takes, fits, fault)


def _amount(value: str) -> Fraction | str:
    """What a Kubernetes quantity comes to, or what is wrong with its form."""
    if not value:
        return "it is empty"
    if len(value) > QUANTITY_MOST:
        return f"it has more than {QUANTITY_MOST} characters"
    if any(one.isspace() for one in value):
        return "it has white space in it"
    match = _QUANTITY.match(value)
    if match is None:
        return "it does not begin with a decimal number"
    number, rest = Fraction(match[1]), value[match.end() :]
    if rest in _SCALES:
        return number * _SCALES[rest]
    if exponent := _EXPONENT.fullmatch(rest):
        # More than 99 is out of every bound, whatever the digits before it are.
        return number * Fraction(10) ** max(-99, min(99, int(exponent[1])))
    if rest[0] in "0123456789.,":
        return "its number has a second separator: it must be decimal, with at most one point"
    if rest[0] in "eE" and rest[1:2] in {*"0123456789+-."}:
        return "its exponent must be a whole number, as in 1e9"
    return f"its suffix must be one of {', '.join(filter(None, _SCALES))}, or an exponent as in 1e9"


_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_DNS_NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_OURS = r"app|originImageName|(sandbox\.fullstackagent\.io|project\.fullstackagent\.io|(deploy\.)?cloud\.sealos\.io)/.*"
_KUBERNETES = r"(.+\.)?(kubernetes|k8s)\.io/.*"
_QUANTITY = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))")
_EXPONENT = re.compile(r"[eE]([+-]?[0-9]+)")
_SCALES = {suffix: Fraction(10) ** (3 * power) for power, suffix in enumerate(("n", "u", "m", *" kMGTPE"), -3)}
_SCALES[""] = _SCALES.pop(" ")
_SCALES |= {f"{letter}i": Fraction(1024**power) for power, letter in enumerate("KMGTPE", 1)}

sandbox_id = _label("a-z", ID_MOST, "a-z, 0-9, -, a letter first")
project = _label("a-z", 63, "a-z, 0-9, -, a letter first")
namespace = _label("a-z0-9", 63, "a-z, 0-9, -")
request_id = _text(r"(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "a UUID: 123e4567-e89b-12d3-a456-426614174000")
image = _text(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}", "an image of at most 512 characters such as registry/name:tag")
class_name = _text(rf"(?=.{{1,253}}\Z){_DNS_NAME}", "a DNS name of at most 253 characters")
access_mode = _text(r"ReadWrite(Once|OncePod|Many)", "ReadWriteOnce, ReadWriteOncePod or ReadWriteMany")
http_path = _text(r"/[!-~]{0,1023}", "an absolute path of at most 1024 printable characters such as /healthz")
port_name = _text(
    r"(?=.{1,15}\Z)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*", "a DNS label of at most 15 characters, one a letter, without --"
)
# Longer ones are no key of a Secret.
env_name = _text(r"[A-Za-z_][A-Za-z0-9_]{0,252}", "a name of at most 253 characters: [A-Za-z_][A-Za-z0-9_]*")
key = _text(rf"((?=[^/]{{1,253}}/){_DNS_NAME}/)?{_NAME}", "a key such as name or example.com/name, as in Kubernetes")
free_key = _text(rf"(?!({_OURS}|{_KUBERNETES})\Z).*", "a key that is not reserved for the service or for Kubernetes")
own_key = _text(rf"({_OURS})", "a key of the service's own")
label = _text(rf"({_NAME})?", "a value of at most 63 characters: a-z, A-Z, 0-9, inside also -, _, .")
cpu = _quantity("CPU in cores such as 2 or 500m, a multiple of 0.001, at most 1024", "0.001", 2**10, "0.001")
memory = _quantity("bytes such as 512Mi or 2Gi, at least 1, at most 16Ti", "1", 2**44)
disk = _quantity("bytes such as 5Gi, at least 1, at most 64Ti", "1", 2**46)
word, argument, annotation, env_value = _data(4096), _data(32 * 1024), _data(16 * 1024), _data(32 * 1024)


def grace_period(field: str, seconds: int) -> Iterator[Violation]:
    """Judges the time between SIGTERM and SIGKILL."""
    if not 0 <= seconds <= GRACE_PERIOD_MOST:
        yield Violation(field, f"must be from 0 to {GRACE_PERIOD_MOST} seconds")


def words(field: str, values: Sequence[str], most: int, kind: Kind) -> Iterator[Violation]:
    """Judges a list of at most `most` words."""
    if len(values) > most:
        yield Violation(field, f"must have at most {most} words")
        return
    for index, value in enumerate(values):
        yield from kind(f"{field}[{index}]", value)
    if sum(map(_written, values)) > WORDS_TOTAL_MOST:
        counted = (
            'a $, ", backslash, tab or line end counts 2, and one of < > &, U+2028, U+2029 and control characters 6'
        )
        yield Violation(field, f"must be at most {WORDS_TOTAL_MOST} bytes in all, where {counted}")


def ports(field: str, values: Sequence[tuple[str, int]], terminal: int) -> Iterator[Violation]:
    """Judges names and numbers, unique beside the terminal's."""
    if not 1 <= len(values) <= 16:
        yield Violation(field, "must have 1 to 16 ports")
        return
    names, numbers = {"ttyd"}, {terminal}
    for index, (name, number) in enumerate(values):
        at = f"{field}[{index}]"
        bad = not 1 <= number <= 65535 or number in numbers
        if bad:
            yield Violation(
                f"{at}.number", f"must be from 1 to 65535, unique, and not {terminal}: that is the terminal's"
            )
        # A name that was made from a bad number is no second mistake.
        if not (bad and name == made_name(number)):
            taken = Violation(f"{at}.name", "must be unique, and not ttyd: that is the terminal's")
            yield from port_name(taken.field, name, True) or ((taken,) if name in names else ())
        names.add(name)
        numbers.add(number)


def made_name(number: int) -> str:
    """The name of a port that was given none."""
    return f"port-{number}"


def pair(field: str, request: str, limit: str, kind: Kind) -> Iterator[Violation]:
    """Judges a request and its limit."""
    least, most = kind.fits(request), kind.fits(limit)
    for end, value, amount in (("request", request, least), ("limit", limit, most)):
        if amount is None:
            yield kind.violation(f"{field}_{end}", value)
    if least and most and least > most:
        yield Violation(f"{field}_request", f"must be at most {field.rpartition('.')[2]}_limit")


def labels(field: str, values: Mapping[str, str]) -> Iterator[Violation]:
    """Judges labels."""
    yield from _entries(field, values, 64, 24 * 1024, (key, free_key), label)


def annotations(field: str, values: Mapping[str, str]) -> Iterator[Violation]:
    """Judges annotations."""
    yield from _entries(field, values, 64, 16 * 1024, (key, free_key), annotation)


def env(field: str, values: Mapping[str, str]) -> Iterator[Violation]:
    """Judges a whole environment: what a sandbox would have after the wish."""
    yield from _entries(field, values, ENV_VARIABLES_MOST, ENV_TOTAL_MOST, (env_name,), env_value)


def env_change(values: Mapping[str, str], unset: Sequence[str], replace: bool) -> Iterator[Violation]:
    """Judges a change by itself, before the sandbox is looked up."""
    yield from env("set", values)
    if replace and unset:
        yield Violation("unset", "must be empty with replace: everything not in set is removed")
        return
    if len(unset) > ENV_VARIABLES_MOST:
        yield Violation("unset", f"must have at most {ENV_VARIABLES_MOST} names")
        return
    for index, name in enumerate(unset):
        both = Violation(f"unset[{index}]", "must not be in set too")
        yield from env_name(both.field, name, True) or ((both,) if name in values else ())


def _entries(
    field: str, values: Mapping[str, str], most: int, total: int, keys: Sequence[Kind], value: Kind
) -> Iterator[Violation]:
    if len(values) > most:
        yield Violation(field, f"must have at most {most} entries")
        return
    size = 0
    for name, text in values.items():
        size += _size(name) + _size(text)
        bad = next((kind for kind in keys if not kind.fits(name)), None) or (None if value.fits(text) else value)
        if bad:
            yield Violation(entry(field, name), f"must be {bad.takes}")
    if size > total:
        yield Violation(field, f"must be at most {total} bytes in all")


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _written(text: str) -> int:
    """Bytes of a word of the command in a revision of the pod's template."""
    six, two, three = (sum(map(text.count, one)) for one in (_SIX_BYTES, _TWO_BYTES, _LINE_ENDS))
    return _size(text) + 5 * six + two + 3 * three


def entry(field: str, name: str) -> str:
    """Names one entry of a map; what is long or unprintable is cut and escaped, so that it stays one line."""
    shown = name if len(name) <= 64 else name[:61] + "..."
    return f"{field}[{shown.encode('unicode_escape').decode()}]"
