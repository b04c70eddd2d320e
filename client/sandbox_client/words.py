"""The contract's enums as words for people."""

from typing import Any


def short(kind: Any, number: int) -> str:
    """A value's name without its enum's prefix; its number if this client is older than the service."""
    try:
        return str(kind.Name(number)).removeprefix(kind.Name(0).removesuffix("UNSPECIFIED"))
    except ValueError:
        return str(number)
