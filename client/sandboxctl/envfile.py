"""Reads env files: what Docker's `--env-file` and dotenv files have in common, and the quotes of a shell.

A file is UTF-8 text, with or without a byte order mark; its lines end with LF, CRLF or CR.

    # A comment. Empty lines count for nothing.
    NAME=everything after the equals sign, as it is    # but for a comment after white space
    export NAME=value
    NAME='as it is: \\n, $HOME and # stay'
    NAME="\\n, \\r and \\t are control characters; \\" \\\\ \\$ and \\` are the characters themselves"
    NAME="a value in quotes
    can go on over lines"

Nothing is substituted: `$NAME` stays as it is. Of two lines with the same name the later one counts.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

_HEAD = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=")
_QUOTED = re.compile(r"""[ \t]*(?:'(?P<raw>[^']*)'|"(?P<escaped>(?:[^"\\]|\\.)*)")""", re.DOTALL)
_REST = re.compile(r"(?:[ \t]+#[^\n]*)?[ \t]*(?:\n|\Z)")
# Not from the middle of white space, or a line of nothing else would take the square of its length.
_COMMENT = re.compile(r"(?<![ \t])[ \t]+#")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", **{one: one for one in '"\\$`'}}


@dataclass(frozen=True, slots=True)
class Lines:
    """The variables of a file, and the names on lines of their own."""

    values: dict[str, str]
    bare: set[str]


def parse(data: bytes) -> dict[str, str]:
    """Returns the variables of a file. Raises ValueError, which has the number of the line and nothing of its text."""
    return read(data).values


def read(data: bytes, names: Collection[str] = ()) -> Lines:
    """Returns the lines of a file, in which each of `names` can have a line of its own. Raises as `parse`."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = _lines(data[: error.start].decode("utf-8", "replace"))
        raise _wrong(before, len(before), "is not UTF-8: save the file as UTF-8 text") from None
    text = _lines(text)
    found = Lines({}, set())
    at = 0
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        line = text[at:end].strip()
        if not line or line.startswith("#"):
            at = end + 1
            continue
        if line in names:
            found.bare.add(line)
            at = end + 1
            continue
        head = _HEAD.match(text, at)
        if head is None:
            raise _wrong(text, at, "must be NAME=value, where NAME is of A-Z, a-z, 0-9 and _ and begins with no digit")
        value, following = _value(text, head.end(), end)
        if "\0" in value:
            raise _wrong(text, at, "has a NUL character, which no variable can have: remove it")
        found.values[head[1]] = value
        at = following
    return found


def _value(text: str, at: int, end: int) -> tuple[str, int]:
    """Returns the value that begins at `at`, on a line that ends at `end`, and where the next line begins."""
    plain = text[at:end]
    if not plain.lstrip(" \t").startswith(("'", '"')):
        comment = _COMMENT.search(plain)
        return plain[: comment.start()] if comment else plain, end + 1
    quoted = _QUOTED.match(text, at)
    if quoted is None:
        raise _wrong(text, at, "has a quote that is not closed: close it, or put the whole value in the other quotes")
    rest = _REST.match(text, quoted.end())
    if rest is None:
        closed = _number(text, quoted.end())
        raise _wrong(text, at, f"has a value that goes on after its closing quote, on line {closed}: quote all of it")
    escaped = quoted["escaped"]
    if escaped is None:
        return quoted["raw"], rest.end()
    return _ESCAPE.sub(lambda one: _ESCAPES.get(one[1], one[0]), escaped), rest.end()


def _lines(text: str) -> str:
    """Returns `text` with LF at the end of every line."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _number(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _wrong(text: str, at: int, what: str) -> ValueError:
    return ValueError(f"line {_number(text, at)} {what}")
