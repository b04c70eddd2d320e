"""The end of a process's output, prepared to be stored and shown: redacted, escaped and bounded."""

from collections.abc import Iterable

from sandbox_server.domain import redaction

MOST = 2048
"""Characters that are kept, from the end."""
REDACTED = "[redacted]"


def last(output: str, values: Iterable[str]) -> str:
    """Returns the end of `output` on one line, with each of `values` replaced by `REDACTED`."""
    # The replacement characters at the ends are what is left of characters that were cut in two.
    text = output.strip("\ufffd")
    secret = redaction.found(text, set(values))
    return printable(_without(text, secret).strip())[-MOST:]


def _without(text: str, secret: bytearray) -> str:
    """Returns the text with each run of characters that `secret` marks with 1 replaced."""
    parts = []
    shown_from = 0
    while (begin := secret.find(1, shown_from)) >= 0:
        end = secret.find(0, begin)
        parts += [text[shown_from:begin], REDACTED]
        shown_from = end if end >= 0 else len(text)
    return "".join((*parts, text[shown_from:]))


def printable(text: str) -> str:
    """Returns the text with control characters escaped: text from elsewhere must not control a terminal."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
