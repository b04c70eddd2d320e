"""The values of the contract's enums as words for people."""

from typing import Any


def short(kind: Any, number: int) -> str:
    """Returns the name of a value without the prefix of its enum, or the number if a newer service sent it."""
    try:
        return str(kind.Name(number)).removeprefix(kind.Name(0).removesuffix("UNSPECIFIED"))
    except ValueError:
        return str(number)
