"""The last words of a process, made fit to be stored and shown: redacted, escaped and bounded."""

from collections.abc import Iterable, Iterator

MOST = 2048
"""Characters that are kept: the last ones."""
SHORT = 4
"""A value of fewer characters is redacted only where it stands as a word: it is also a part of
many harmless words."""
EDGE = 3
"""Characters at an edge of the output that may be the rest of a value that was cut off there."""
REDACTED = "[redacted]"


def last(output: str, values: Iterable[str]) -> str:
    """The end of `output` without any of `values`, on one line."""
    # A character that was cut in two.
    text = output.strip("\ufffd")
    secret = bytearray(len(text))
    for piece in {piece for value in values for piece in _pieces(value)}:
        for start, end in _found(text, piece):
            secret[start:end] = b"\1" * (end - start)
    return _escaped(_without(text, secret).strip())[-MOST:]


def _pieces(value: str) -> Iterator[str]:
    """A value as programs print it: whole or line by line."""
    yield from (one for one in (value, value.strip(), *map(str.strip, value.splitlines())) if one.strip())


def _found(text: str, piece: str) -> Iterator[tuple[int, int]]:
    """The ranges of the text that are the piece, or the part of the piece that is left where the text was cut."""
    size = len(piece)
    at = text.find(piece)
    while at >= 0:
        around = text[max(0, at - 1) : at] + text[at + size : at + size + 1]
        if size >= SHORT or not any(one.isalnum() or one == "_" for one in around):
            yield at, at + size
        at = text.find(piece, at + 1)
    if size < SHORT or len(text) < EDGE:
        return
    if text in piece:
        yield 0, len(text)
    at = piece.find(text[:EDGE])
    while at >= 0:
        if text.startswith(piece[at:]):
            yield 0, size - at
        at = piece.find(text[:EDGE], at + 1)
    at = piece.find(text[-EDGE:])
    while at >= 0:
        if text.endswith(piece[: at + EDGE]):
            yield len(text) - at - EDGE, len(text)
        at = piece.find(text[-EDGE:], at + 1)


def _without(text: str, secret: bytearray) -> str:
    parts, at = [], 0
    while (start := secret.find(1, at)) >= 0:
        end = secret.find(0, start)
        parts += [text[at:start], REDACTED]
        at = len(text) if end < 0 else end
    return "".join((*parts, text[at:]))


def _escaped(text: str) -> str:
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
