"""The last words of a process, made fit to be stored and shown: redacted, escaped and bounded."""

from collections.abc import Iterable

from sandbox_server.domain import redaction

MOST = 2048
"""Characters that are kept: the last ones."""
REDACTED = "[redacted]"


def last(output: str, values: Iterable[str]) -> str:
    """The end of `output` without any of `values`, on one line."""
    # A character that was cut in two.
    text = output.strip("\ufffd")
    secret = redaction.found(text, set(values))
    return _escaped(_without(text, secret).strip())[-MOST:]


def _without(text: str, secret: bytearray) -> str:
    parts, at = [], 0
    while (start := secret.find(1, at)) >= 0:
        end = secret.find(0, start)
        parts += [text[at:start], REDACTED]
        at = len(text) if end < 0 else end
    return "".join((*parts, text[at:]))


def _escaped(text: str) -> str:
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
