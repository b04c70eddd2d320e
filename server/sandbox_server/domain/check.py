"""Checks what callers send. Each bad field has one violation, which names the field and never contains its value."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from sandbox_server.domain.errors import Violation

ID_MOST = 52
"""Characters. The StatefulSet controller adds 11 to the id for a label of the pod, which may have 63."""
WORDS_TOTAL_MOST = 256 * 1024
"""Bytes of the command, and of the arguments, encoded as JSON. The StatefulSet controller stores them so in each revision
of the pod's template, and etcd limits an object to 1.5 MiB."""
_SIX_BYTES = "<>&" + "".join(map(chr, {*range(32)} - {*b"\n\r\t"}))
"""One byte that Go's encoding/json writes as six, such as \\u003c."""
_TWO_BYTES = '"\\\n\r\t$'
"""One byte that is written as two: escaped by a backslash, or a $, which the service doubles so that Kubernetes keeps it."""
_LINE_ENDS = "\u2028\u2029"
"""Three bytes of UTF-8 that encoding/json writes as six."""
GRACE_PERIOD_MOST = 3600
"""Seconds."""
ENV_VARIABLES_MOST = 1000
ENV_TOTAL_MOST = 512 * 1024
"""Bytes of names and values: half of the 1 MiB that a Secret may have, since base64 adds a third."""

QUANTITY_MOST = 64
"""Characters. Quantities are computed exactly, so that long ones would be slow."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The rule of one kind of value."""

    takes: str
    """What the value must be, in words that follow `must be`."""
    fits: Callable[[str], Any]
    """Returns something true for a valid value: True, a match, or the amount of a quantity. Else None or False."""
    fault: Callable[[str], str] = lambda _: ""
    """Says what is wrong with an invalid value, without its text. Empty if `takes` says enough."""

    def __call__(self, field: str, value: str, required: bool = False) -> tuple[Violation, ...]:
        """Returns the violation of a value, or nothing. An empty value is unset: it is invalid only if `required`."""
        if not value:
            return (Violation(field, "is required"),) if required else ()
        return () if self.fits(value) else (self.violation(field, value),)

    def violation(self, field: str, value: str) -> Violation:
        """Returns the violation of an invalid value."""
        fault = self.fault(value)
        return Violation(field, f"must be {self.takes}: {fault}" if fault else f"must be {self.takes}")


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
    """Returns the rule of a Kubernetes quantity within bounds, and a multiple of `step` if given.

    Its `fits` returns the amount as a Fraction, which is never 0.
    """

    def amount_or_fault(value: str) -> Fraction | str:
        amount = _amount(value)
        if isinstance(amount, str):
            return amount
        if amount <= 0:
            return "it is not more than 0"
        if amount < Fraction(least):
            return f"it is less than {least} (the suffix m is a thousandth)"
        if amount > most:
            return "it is above the maximum"
        if step and amount % Fraction(step) != 0:
            return f"it is no multiple of {step}"
        return amount

    def fits(value: str) -> Fraction | None:
        found = amount_or_fault(value)
        return found if isinstance(found, Fraction) else None

    def fault(value: str) -> str:
        found = amount_or_fault(value)
        return found if isinstance(found, str) else ""

    return Kind(takes, fits, fault)


def amount(value: str) -> Fraction:
    """Returns the amount of a Kubernetes quantity, whatever its bounds; 0 for a text that is none.

    It is rounded up to a thousandth, as the API server does with what it keeps (pkg/apis/core/v1/defaults.go,
    SetDefaults_ResourceList).
    """
    found = _amount(value)
    return Fraction(math.ceil(found * 1000), 1000) if isinstance(found, Fraction) else Fraction()


def _amount(value: str) -> Fraction | str:
    """Returns the amount of a Kubernetes quantity, or says what is wrong with its form."""
    if not value:
        return "it is empty"
    if len(value) > QUANTITY_MOST:
        return f"it has more than {QUANTITY_MOST} characters"
    if any(character.isspace() for character in value):
        return "it has white space in it"
    match = _QUANTITY.match(value)
    if match is None:
        return "it does not begin with a decimal number"
    number, rest = Fraction(match[1]), value[match.end() :]
    if rest in _SCALES:
        return number * _SCALES[rest]
    exponent = _EXPONENT.fullmatch(rest)
    if exponent is not None:
        # An exponent of more than 99 is out of every bound, whatever the digits before it are.
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
_SCALES = {suffix: Fraction(1000) ** power for power, suffix in enumerate(("n", "u", "m", "", *"kMGTPE"), -3)}
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
# A key of a Secret has at most 253 characters.
env_name = _text(r"[A-Za-z_][A-Za-z0-9_]{0,252}", "a name of at most 253 characters: [A-Za-z_][A-Za-z0-9_]*")
key = _text(rf"((?=[^/]{{1,253}}/){_DNS_NAME}/)?{_NAME}", "a key such as name or example.com/name, as in Kubernetes")
free_key = _text(rf"(?!({_OURS}|{_KUBERNETES})\Z).*", "a key that is not reserved for the service or for Kubernetes")
own_key = _text(rf"({_OURS})", "a key of the service's own")
label = _text(rf"({_NAME})?", "a value of at most 63 characters: a-z, A-Z, 0-9, inside also -, _, .")
cpu = _quantity("CPU in cores such as 2 or 500m, a multiple of 0.001, at most 1024", "0.001", 2**10, "0.001")
memory = _quantity("bytes such as 512Mi or 2Gi, at least 1, at most 16Ti", "1", 2**44)
disk = _quantity("bytes such as 5Gi, at least 1, at most 64Ti", "1", 2**46)
word = _data(4096)
argument = _data(32 * 1024)
annotation = _data(16 * 1024)
env_value = _data(32 * 1024)


def grace_period(field: str, seconds: int) -> Iterator[Violation]:
    """Checks the time between SIGTERM and SIGKILL."""
    if not 0 <= seconds <= GRACE_PERIOD_MOST:
        yield Violation(field, f"must be from 0 to {GRACE_PERIOD_MOST} seconds")


def words(field: str, values: Sequence[str], most: int, kind: Kind) -> Iterator[Violation]:
    """Checks a list of at most `most` words."""
    if len(values) > most:
        yield Violation(field, f"must have at most {most} words")
        return
    for index, value in enumerate(values):
        yield from kind(f"{field}[{index}]", value)
    if sum(map(_json_size, values)) > WORDS_TOTAL_MOST:
        counted = (
            'a $, ", backslash, tab or line end counts 2, and one of < > &, U+2028, U+2029 and control characters 6'
        )
        yield Violation(field, f"must be at most {WORDS_TOTAL_MOST} bytes in all, where {counted}")


def ports(field: str, values: Sequence[tuple[str, int]], terminal: int) -> Iterator[Violation]:
    """Checks names and numbers, which must be unique. The port `terminal` and the name ttyd are the terminal's."""
    if not 1 <= len(values) <= 16:
        yield Violation(field, "must have 1 to 16 ports")
        return
    names = {"ttyd"}
    numbers = {terminal}
    for index, (name, number) in enumerate(values):
        port = f"{field}[{index}]"
        bad_number = not 1 <= number <= 65535 or number in numbers
        if bad_number:
            yield Violation(
                f"{port}.number", f"must be from 1 to 65535, unique, and not {terminal}: that is the terminal's"
            )
        # A name that the service made from a bad number is not a second mistake.
        if not (bad_number and name == made_name(number)):
            malformed = port_name(f"{port}.name", name, True)
            yield from malformed
            if not malformed and name in names:
                yield Violation(f"{port}.name", "must be unique, and not ttyd: that is the terminal's")
        names.add(name)
        numbers.add(number)


def made_name(number: int) -> str:
    """Returns the name of a port that the caller gave no name."""
    return f"port-{number}"


def pair(field: str, request: str, limit: str, kind: Kind) -> Iterator[Violation]:
    """Checks a request and a limit of the resource `field`; `kind` is a quantity."""
    requested = kind.fits(request)
    limited = kind.fits(limit)
    if requested is None:
        yield kind.violation(f"{field}_request", request)
    if limited is None:
        yield kind.violation(f"{field}_limit", limit)
    if requested is not None and limited is not None and requested > limited:
        yield Violation(f"{field}_request", f"must be at most {field.rpartition('.')[2]}_limit")


def labels(field: str, values: Mapping[str, str]) -> Iterator[Violation]:
    """Checks labels."""
    yield from _entries(field, values, 64, 24 * 1024, (key, free_key), label)


def annotations(field: str, values: Mapping[str, str]) -> Iterator[Violation]:
    """Checks annotations."""
    yield from _entries(field, values, 64, 16 * 1024, (key, free_key), annotation)


def env(field: str, values: Mapping[str, str]) -> Iterator[Violation]:
    """Checks a whole environment, as a sandbox would have it after a mutation."""
    yield from _entries(field, values, ENV_VARIABLES_MOST, ENV_TOTAL_MOST, (env_name,), env_value)


def env_change(values: Mapping[str, str], unset: Sequence[str], replace: bool) -> Iterator[Violation]:
    """Checks a change of an environment without knowing the environment."""
    yield from env("set", values)
    if replace and unset:
        yield Violation("unset", "must be empty with replace: everything not in set is removed")
        return
    if len(unset) > ENV_VARIABLES_MOST:
        yield Violation("unset", f"must have at most {ENV_VARIABLES_MOST} names")
        return
    for index, name in enumerate(unset):
        malformed = env_name(f"unset[{index}]", name, True)
        yield from malformed
        if not malformed and name in values:
            yield Violation(f"unset[{index}]", "must not be in set too")


def _entries(
    field: str, values: Mapping[str, str], most: int, total: int, keys: Sequence[Kind], value: Kind
) -> Iterator[Violation]:
    if len(values) > most:
        yield Violation(field, f"must have at most {most} entries")
        return
    size = 0
    for name, text in values.items():
        size += _size(name) + _size(text)
        rules = [(kind, name) for kind in keys] + [(value, text)]
        broken = next((kind for kind, checked in rules if not kind.fits(checked)), None)
        if broken is not None:
            yield Violation(entry(field, name), f"must be {broken.takes}")
    if size > total:
        yield Violation(field, f"must be at most {total} bytes in all")


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _json_size(text: str) -> int:
    """Returns the bytes of a word of the command in a revision of the pod's template."""
    six = sum(map(text.count, _SIX_BYTES))
    two = sum(map(text.count, _TWO_BYTES))
    line_ends = sum(map(text.count, _LINE_ENDS))
    return _size(text) + 5 * six + two + 3 * line_ends


def entry(field: str, name: str) -> str:
    """Returns the name of an entry of a map. A long key is cut, and an unprintable one escaped, to stay on one line."""
    shown = name if len(name) <= 64 else name[:61] + "..."
    return f"{field}[{shown.encode('unicode_escape').decode()}]"
