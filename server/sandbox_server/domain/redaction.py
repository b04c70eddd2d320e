"""Finds the values of an environment in the output of a program.

Programs print a value as it is, or encoded: in JSON, in the quotes of a shell or a language, in a URL, in HTML, in base64,
in hexadecimal digits. The output is therefore searched as it is, and as what it decodes to. Nothing in the output tells
where base64 or hexadecimal digits begin, so that for these two the values are encoded instead.
"""

import base64
import functools
import html
import re
import urllib.parse
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

SHORT = 4
"""A value of fewer characters is found only where it stands as a word: it is also a part of many harmless words."""
EDGE = 3
"""Characters at an edge of the output that may be the rest of a value that was cut off there."""
CUT_MOST = 9
"""Characters at an edge of the output that may be the rest of an escape that was cut off there, such as `U0001f600`."""
PLACES_MOST = 64
"""Places at which one value is compared with the output. A value that has more repeats itself; then everything is taken for
the value that can be it, since the event loop has no time for each place."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the output says in one encoding. The character at `n` stands for the range `places[n]` of the output."""

    text: str
    places: list[tuple[int, int]]
    begins: tuple[int, ...]
    """Where what is left of a value may begin: at the begin, or after the rest of an escape that was cut off there."""
    ends: tuple[int, ...]
    """Where what is left of a value may end: at the end, or before the beginning of an escape that was cut off there."""


def found(output: str, values: Collection[str]) -> bytearray:
    """Returns a byte for each character of `output`: 1 where it is a part of one of `values`, else 0."""
    marks = bytearray(len(output))
    plain = _reading(output, [(at, at + 1) for at in range(len(output))])
    pieces = {piece for value in values for piece in _pieces(value)}
    readings = [(plain, pieces)]
    readings += [(_read(output, *escape), pieces) for escape in _ESCAPES if escape[0].search(output)]
    unbroken = _read(output, _SPACE, lambda _: "")
    long = [value.encode(errors="replace") for value in values if len(value) >= SHORT]
    for alike, encoded in (
        (_ALIKE_IN_BASE64, {core for value in long for core in _in_base64(value)}),
        (_ALIKE_IN_HEX, {value.hex() for value in long}),
    ):
        text = unbroken.text.translate(alike)
        readings.append((_Reading(text, unbroken.places, (0,), (len(text),)), encoded))
    for reading, wanted in readings:
        for piece in wanted:
            for start, end in _ranges(reading, piece):
                begin, stop = reading.places[start][0], reading.places[end - 1][1]
                marks[begin:stop] = b"\1" * (stop - begin)
    return marks


def _pieces(value: str) -> Iterator[str]:
    """A value as programs print it: whole or line by line, and with the escapes decoded that are in it.

    The `echo` of some shells decodes what follows a backslash, and a client of a URL what follows a percent sign.
    """
    decoded = (escape.sub(functools.partial(_meant, decode), value) for escape, decode in _ESCAPES)
    for one in {value, *decoded}:
        yield from (piece for piece in (one, one.strip(), *map(str.strip, one.splitlines())) if piece.strip())


def _meant(decode: Callable[[str], str], escape: re.Match[str]) -> str:
    return decode(escape[0])


def _in_base64(value: bytes) -> Iterator[str]:
    """The characters of base64 that the value alone decides, for each place that its first byte can have among three."""
    for before in range(3):
        written = base64.b64encode(b"\0" * before + value).decode().rstrip("=")
        complete = len(written) if (before + len(value)) % 3 == 0 else len(written) - 1
        if core := written[-(-before * 8 // 6) : complete]:
            yield core


def _read(output: str, escape: re.Pattern[str], decode: Callable[[str], str]) -> _Reading:
    """Reads the output with every `escape` decoded."""
    characters: list[str] = []
    places: list[tuple[int, int]] = []
    at = 0
    for match in escape.finditer(output):
        start, end = match.span()
        meant = decode(match[0])
        characters += (*output[at:start], *meant)
        places += ((one, one + 1) for one in range(at, start))
        places += [(start, end)] * len(meant)
        at = end
    characters += output[at:]
    places += ((one, one + 1) for one in range(at, len(output)))
    return _reading("".join(characters), places)


def _reading(text: str, places: list[tuple[int, int]]) -> _Reading:
    """A reading whose edges may be in the middle of an escape."""
    begins = (at for at in range(1, min(CUT_MOST, len(text)) + 1) if _REST.fullmatch(text, 0, at))
    ends = (at for at in range(max(0, len(text) - CUT_MOST), len(text)) if text[at] in _MARKS or not text[at].isascii())
    return _Reading(text, places, (0, *begins), (len(text), *ends))


def _backslash(escape: str) -> str:
    """What JSON, a programming language or a shell means by an escape with a backslash."""
    kind = escape[1]
    if kind == "u":
        return bytes.fromhex(escape.replace("\\u", "")).decode("utf-16-be", "replace")
    if kind == "U":
        return bytes.fromhex(escape[2:]).decode("utf-32-be", "replace")
    if kind == "x":
        return _text(bytes.fromhex(escape.replace("\\x", "")))
    if kind in "0123" and len(escape) > 2:
        return _text(bytes(int(one, 8) for one in escape.split("\\")[1:]))
    return _CONTROL.get(kind, kind)


def _percent(escape: str) -> str:
    return " " if escape == "+" else _text(urllib.parse.unquote_to_bytes(escape))


def _text(written: bytes) -> str:
    """Bytes as UTF-8, or as Latin-1 where they are not."""
    try:
        return written.decode()
    except UnicodeDecodeError:
        return written.decode("latin-1")


_CONTROL = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b", "0": "\0"}
_AFTER_BACKSLASH = r"(?:\\u[0-9A-Fa-f]{4})+|\\U[0-9A-Fa-f]{8}|(?:\\x[0-9A-Fa-f]{2})+|(?:\\[0-3][0-7]{2})+|\\[^uUx1-9]"
_ESCAPES: tuple[tuple[re.Pattern[str], Callable[[str], str]], ...] = (
    (re.compile(_AFTER_BACKSLASH, re.DOTALL), _backslash),
    # Between single quotes a shell takes everything else as it is.
    (re.compile(r"""'(?:\\'|"'")'"""), lambda _: "'"),
    (re.compile(r"(?:%[0-9A-Fa-f]{2})+|\+"), _percent),
    (re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});"), html.unescape),
)
_REST = re.compile(r"""[uUx#0-9A-Fa-f\u0080-\U0010ffff]*;?|[A-Za-z]{1,7};|\\?["']{1,4}""")
_MARKS = "\\%&'"
_SPACE = re.compile(r"\s+")
_ALIKE_IN_BASE64 = str.maketrans("-_", "+/")
_ALIKE_IN_HEX = str.maketrans("ABCDEF", "abcdef")


def _ranges(reading: _Reading, piece: str) -> Iterator[tuple[int, int]]:
    """The ranges of the text that are the piece, or the part of the piece that is left where the text was cut."""
    text, size = reading.text, len(piece)
    if size < SHORT:
        yield from _words(text, piece)
        return
    at, count = text.find(piece), 0
    while at >= 0:
        count += 1
        if count > PLACES_MOST:
            yield at, text.rfind(piece) + size
            break
        yield at, at + size
        at = text.find(piece, at + 1)
    if text in piece and len(text) >= EDGE:
        yield 0, len(text)
        return
    for begin in reading.begins:
        if left := _left_at_begin(text, begin, piece):
            yield 0, begin + left
    for end in reading.ends:
        if left := _left_at_end(text, end, piece):
            yield end - left, len(text)


def _words(text: str, piece: str) -> Iterator[tuple[int, int]]:
    """Where a short piece stands as a word."""
    at, size = text.find(piece), len(piece)
    while at >= 0:
        around = text[max(0, at - 1) : at] + text[at + size : at + size + 1]
        if not any(one.isalnum() or one == "_" for one in around):
            yield at, at + size
        at = text.find(piece, at + 1)


def _left_at_begin(text: str, begin: int, piece: str) -> int:
    """How many characters from `begin` are the end of the piece; 0 if there are fewer than EDGE."""
    edge, size = text[begin : begin + EDGE], len(piece)
    at = piece.find(edge, max(0, size - len(text) + begin)) if len(edge) == EDGE else -1
    for _ in range(PLACES_MOST):
        if at < 0 or text.startswith(piece[at:], begin):
            break
        at = piece.find(edge, at + 1)
    return 0 if at < 0 else size - at


def _left_at_end(text: str, end: int, piece: str) -> int:
    """How many characters before `end` are the begin of the piece; 0 if there are fewer than EDGE."""
    edge = text[max(0, end - EDGE) : end]
    at = piece.rfind(edge, 0, end) if len(edge) == EDGE else -1
    for _ in range(PLACES_MOST):
        if at < 0 or text.endswith(piece[: at + EDGE], 0, end):
            break
        at = piece.rfind(edge, 0, at + EDGE - 1)
    return 0 if at < 0 else at + EDGE
