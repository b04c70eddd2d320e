"""The result of a check, and how results are printed."""

import enum
import json as _json
import os
import re
import shutil
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from sandbox_server.domain import words


class Status(enum.Enum):
    """What a check found. The value is the word for programs."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    NOT_CHECKED = "not_checked"

    @property
    def word(self) -> str:
        """The word for people."""
        return self.value.replace("_", " ")


_COLOURS = {Status.OK: "32", Status.WARNING: "33", Status.FAILURE: "1;31", Status.NOT_CHECKED: "2"}
_WIDTH_WITHOUT_TERMINAL = 120
_WIDTH_LEAST = 60
_COMMAND = re.compile("`[^`]+`")
_JOINT = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, slots=True)
class Result:
    """What a check found out about its subject, and what to do about it: the next step, with commands in backticks."""

    check: str
    status: Status
    subject: str
    message: str
    remedy: str = ""


def failed(results: Sequence[Result]) -> bool:
    """Returns whether a check failed. A warning is no failure, and neither is what could not be checked."""
    return any(one.status is Status.FAILURE for one in results)


def json(results: Sequence[Result]) -> str:
    """Returns the results for programs: a list of objects."""
    fields = ("check", "status", "subject", "message", "remedy")
    return _json.dumps([dict(zip(fields, _words(one), strict=True)) for one in results], indent=2) + "\n"


def table(results: Sequence[Result], stream: TextIO) -> str:
    """Returns the results for people, as wide as the terminal, with a line that counts them."""
    terminal = stream.isatty()
    width = shutil.get_terminal_size((_WIDTH_WITHOUT_TERMINAL, 0)).columns
    coloured = terminal and "NO_COLOR" not in os.environ
    marks = max(len(one.word) for one in Status)
    checks = max((len(one.check) for one in results), default=0)
    indent = " " * (marks + checks + 4)
    lines = []
    for one in results:
        check, _, subject, message, remedy = map(_printable, _words(one))
        mark = one.status.word.ljust(marks)
        if coloured:
            mark = f"\x1b[{_COLOURS[one.status]}m{mark}\x1b[0m"
        text = f"{subject}: {message}" if subject else message
        first, *rest = _wrapped(text, max(width, _WIDTH_LEAST) - len(indent))
        lines += [f"{mark}  {check.ljust(checks)}  {first}", *(indent + line for line in rest)]
        if remedy:
            first, *rest = _wrapped(remedy, max(width, _WIDTH_LEAST) - len(indent) - 3)
            lines += [f"{indent}-> {first}", *(f"{indent}   {line}" for line in rest)]
    counts = Counter(one.status for one in results)
    counted = ", ".join(f"{counts[one]} {one.word}" for one in Status if counts[one])
    return "\n".join([*lines, "", f"{len(results)} results: {counted}"]) + "\n"


def _words(one: Result) -> tuple[str, str, str, str, str]:
    return one.check, one.status.value, one.subject, one.message, one.remedy


def _printable(text: str) -> str:
    """Returns the text on one line, with control characters escaped: text from a cluster must not control a terminal."""
    return words.printable(" ".join(text.split()))


def _wrapped(text: str, width: int) -> list[str]:
    """Returns the lines of a text. No word and no command in backticks is broken, so that both can be copied."""
    whole = _COMMAND.sub(lambda command: command[0].replace(" ", _JOINT), text)
    lines = textwrap.wrap(whole, width, break_long_words=False, break_on_hyphens=False) or [""]
    return [line.replace(_JOINT, " ") for line in lines]
