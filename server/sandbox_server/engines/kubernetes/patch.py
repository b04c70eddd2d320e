"""Applies the operator's JSON patch to a pod template, and checks that what the service relies on is still there."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import jsonpatch

Manifest = dict[str, Any]


class Inapplicable(ValueError):
    """The patch does not apply to a template, or changes or removes what the service relies on."""


def apply(template: Manifest, operations: Sequence[Manifest]) -> Manifest:
    """Returns the template after every operation in order. Raises `Inapplicable`."""
    patched = template
    for index, operation in enumerate(operations):
        try:
            # A copy, because the value becomes a part of the template that the next operation may change.
            patched = jsonpatch.apply_patch(patched, [copy.deepcopy(operation)])
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError) as error:
            called = f"{operation.get('op')} {operation.get('path')}"
            raise Inapplicable(f"pod-patch: operation {index} ({called}) does not apply: {_brief(error)}") from None
    if operations:
        _check(template, patched)
    return patched


def _brief(error: Exception) -> str:
    """Returns what went wrong. The library's message has the whole template in it."""
    if isinstance(error, jsonpatch.JsonPatchTestFailed):
        return "the template has another value there"
    if isinstance(error, jsonpatch.JsonPatchConflict | jsonpatch.JsonPointerException):
        return "the template has no such place"
    return "it is no operation of RFC 6902"


def _check(template: Manifest, patched: Manifest) -> None:
    try:
        lost = next(_lost(template, patched), "")
    except (AttributeError, KeyError, TypeError):
        lost = "the shape of a pod template"
    if lost:
        raise Inapplicable(f"pod-patch: changes or removes {lost}, which the service relies on")


def _lost(template: Manifest, patched: Manifest) -> Iterator[str]:
    """Yields what the service set and the patch took away. Selectors and the reading of pods rely on the metadata."""
    for part in ("labels", "annotations"):
        for key, value in template["metadata"][part].items():
            if patched["metadata"][part].get(key) != value:
                yield f"/metadata/{part}/{key}"
    for kind in ("containers", "initContainers"):
        for container in template["spec"].get(kind, []):
            name = container["name"]
            found = [one for one in patched["spec"][kind] if one["name"] == name]
            if len(found) != 1:
                yield f"the container {name}"
                return
            for part in ("envFrom", "volumeMounts"):
                if any(one not in found[0][part] for one in container.get(part, [])):
                    yield f"{part} of the container {name}"
