"""Expands variables as a kubelet does in what a pod is made with: `$(NAME)` is a variable, and `$$` stands for `$`.

The values of a Secret reach a process as they are. So what a former system left to the kubelet is expanded when it moves there.
"""

import re
from collections.abc import Iterable, Mapping

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


def expanded(text: str, known: Mapping[str, str]) -> str:
    """Returns the text that a process gets. A variable that is not known stays as it is written."""

    def value(found: re.Match[str]) -> str:
        return "$" if found[1] is None else known.get(found[1], found[0])

    return _REFERENCE.sub(value, text)


def words(given: Iterable[str], env: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the words of a command that a process gets."""
    return tuple(expanded(one, env) for one in given)
