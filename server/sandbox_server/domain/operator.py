"""Checks the settings that operators make for the objects of every sandbox.

Each function returns a valid value unchanged and raises ValueError, which says what the value must be, for another.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sandbox_server.domain import check

_TOLERATION = {"key": str, "operator": str, "value": str, "effect": str, "tolerationSeconds": int}
_OPERATORS = ("Equal", "Exists")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def split(given: Any) -> Any:
    """Returns the words that commas separate in a text, without empty ones. Returns another value unchanged."""
    if not isinstance(given, str):
        return given
    return tuple(word.strip() for word in given.split(",") if word.strip())


def parsed(given: Any) -> Any:
    """Returns the value of a JSON text. Returns another value unchanged."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"must be JSON: {error}") from None


def key(name: str) -> str:
    """Checks a key, or a prefix that ends with a slash, that callers are allowed to use."""
    whole = f"{name}x" if name.endswith("/") else name
    _need(check.key.fits(whole), f"{name!r} must be {check.key.takes}, or a prefix such as example.com/")
    _need(check.free_key.fits(whole), f"{name!r} must be {check.free_key.takes}")
    return name


def class_name(name: str) -> str:
    """Checks the name of a class, such as a storage class. It may be empty."""
    _need(not name or check.class_name.fits(name), f"{name!r} must be {check.class_name.takes}")
    return name


def annotations(given: Mapping[str, str]) -> Mapping[str, str]:
    """Checks annotations. Keys of the service itself are not allowed."""
    for name in given:
        own = check.own_key.fits(name)
        _need(check.key.fits(name) and not own, f"{name!r} must be {check.key.takes}, and not the service's own")
    return given


def labels(given: Mapping[str, str]) -> Mapping[str, str]:
    """Checks labels."""
    for name, value in given.items():
        _need(check.key.fits(name), f"{name!r} must be {check.key.takes}")
        _need(check.label.fits(value), f"{name}: must be {check.label.takes}")
    return given


def tolerations(given: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Checks tolerations by the rules of Kubernetes."""
    for index, toleration in enumerate(given):
        for holds, otherwise in _rules_of_toleration(toleration):
            _need(holds, f"{index}: {otherwise}")
    return given


def _rules_of_toleration(given: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """Yields whether each rule holds, and what to say if not. A rule assumes that those before it hold."""
    for name, value in given.items():
        yield name in _TOLERATION, f"{name!r} must be one of {', '.join(_TOLERATION)}"
        yield type(value) is _TOLERATION[name], f"{name}: must be of type {_TOLERATION[name].__name__}"
    name = given.get("key", "")
    value = given.get("value", "")
    effect = given.get("effect", "")
    exists = given.get("operator") == "Exists"
    yield given.get("operator", "Equal") in _OPERATORS, f"operator: must be one of {', '.join(_OPERATORS)}"
    yield effect in ("", *_EFFECTS), f"effect: must be one of {', '.join(_EFFECTS)}"
    yield not name or check.key.fits(name), f"key: must be {check.key.takes}"
    yield check.label.fits(value), f"value: must be {check.label.takes}"
    yield not (exists and value), "value: must be empty with the operator Exists"
    yield exists or bool(name), "operator: must be Exists without a key"
    yield "tolerationSeconds" not in given or effect == "NoExecute", "tolerationSeconds: needs the effect NoExecute"


def _need(holds: Any, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
