"""What UpdateSandbox changes of a spec, and which of it waits for a restart."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sandbox.v1 import sandbox_pb2 as pb

from sandbox_server.domain import check, errors
from sandbox_server.domain.errors import Violation
from sandbox_server.domain.phase import ConditionType, Phase
from sandbox_server.domain.policy import Policy
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.spec import TERMINAL_PORT, Resources, SandboxSpec
from sandbox_server.rpc import convert, render
from sandbox_server.settings import Defaults

_MEMBERS = {
    "cpu_request": check.cpu,
    "cpu_limit": check.cpu,
    "memory_request": check.memory,
    "memory_limit": check.memory,
}
_SIZE = "storage.size"
_WHOLE = (
    "labels",
    "annotations",
    "image",
    "command",
    "args",
    "ports",
    "resources",
    "readiness",
    "grace_period_seconds",
)
PATHS = (*_WHOLE, *(f"resources.{name}" for name in _MEMBERS), _SIZE)
"""The paths that an update mask takes."""
_AT_ONCE = ("labels",)
"""The paths that need no restart to hold: lists and watches select by labels as they are stored."""
_FIXED = {
    "project": "is fixed when the sandbox is created: leave it out",
    "storage": "is fixed for the life of the disk, but for storage.size: leave it out",
    "runtime_class": "is fixed when the sandbox is created: leave it out",
    "copy_image_home": "is fixed when the sandbox is created: leave it out",
    "env": "is not a part of the spec: leave it out, and call UpdateEnvVars",
}


def violations(request: pb.UpdateSandboxRequest, defaults: Defaults, policy: Policy) -> Iterator[Violation]:
    """Yields a violation for each bad path of the mask, and for each bad value in a field that the mask names.

    What depends on the rest of the spec is left to `changed`.
    """
    paths = request.update_mask.paths
    yield from _bad_paths(paths)
    message = pb.SandboxSpec(project="any", image="any")
    good = [path for path in paths if path in PATHS]
    _put(request.spec, message, good)
    tcp_port = message.readiness.tcp_port
    if "ports" not in good and 1 <= tcp_port <= 65535 and tcp_port != TERMINAL_PORT:
        # Whether it is one of the ports depends on the rest of the spec.
        message.ports.add(number=tcp_port)
    yield from policy.violations(message.annotations, "", "")
    try:
        convert.spec(message, defaults)
    except errors.Invalid as invalid:
        yield from invalid.violations


def changed(request: pb.UpdateSandboxRequest, defaults: Defaults, before: SandboxSpec) -> SandboxSpec:
    """Returns the spec after an update. Assumes that the request has no `violations`. Raises `errors.Invalid`."""
    message = pb.SandboxSpec(**render.spec(before))
    _put(request.spec, message, request.update_mask.paths)
    made = convert.spec(message, defaults)
    after: dict[str, Any] = {name: getattr(made, name) for name in map(_field, request.update_mask.paths)}
    if "resources" in after:
        after["resources"] = _as_before(made.resources, before.resources)
    if "storage" in after:
        same = check.amount(made.storage.size) == check.amount(before.storage.size)
        after["storage"] = before.storage if same else dataclasses.replace(before.storage, size=made.storage.size)
    return dataclasses.replace(before, **after)


def progress(paths: Sequence[str], sandbox: Sandbox) -> dict[str, Any]:
    """Returns `applied` and `pending` of the answer: the paths that hold in the sandbox as it is, and the others."""
    status = sandbox.status
    runs = status.phase is Phase.RUNNING and status.observed_generation == sandbox.generation
    met = {one.type for one in status.conditions if one.status}

    def holds(path: str) -> bool:
        if path == _SIZE:
            return ConditionType.VOLUME_SIZED in met
        if _field(path) == "resources":
            return runs and ConditionType.RESOURCES_APPLIED in met
        return runs or path in _AT_ONCE

    applied = [path for path in paths if holds(path)]
    return {"applied": {"paths": applied}, "pending": {"paths": [path for path in paths if path not in applied]}}


def _bad_paths(paths: Sequence[str]) -> Iterator[Violation]:
    if not paths:
        yield Violation("update_mask", f"is required: name the fields to change, of {', '.join(PATHS)}")
    if len(paths) > len(PATHS):
        yield Violation("update_mask", f"must have at most {len(PATHS)} paths, each once")
        return
    for index, path in enumerate(paths):
        fault = _fault(path, paths[:index], paths)
        if fault:
            yield Violation(f"update_mask.paths[{index}]", fault)


def _fault(path: str, before: Sequence[str], paths: Sequence[str]) -> str:
    """Says what is wrong with a path of the mask; empty if nothing is."""
    field = _field(path)
    if field in _FIXED and path not in PATHS:
        return f"{field} {_FIXED[field]}"
    if path not in PATHS:
        return f"must be one of {', '.join(PATHS)}"
    if path in before:
        return "is named twice: leave one of them out"
    if path != field and field in paths:
        return f"is a part of {field}, which is named too: leave one of them out"
    return ""


def _field(path: str) -> str:
    return path.partition(".")[0]


def _put(given: pb.SandboxSpec, target: pb.SandboxSpec, paths: Iterable[str]) -> None:
    """Makes the fields of `target` that `paths` name as they are in `given`, unset ones too."""
    for path in paths:
        field, _, member = path.partition(".")
        if member:
            setattr(getattr(target, field), member, getattr(getattr(given, field), member))
        else:
            target.ClearField(field)  # type: ignore[arg-type]
    target.MergeFrom(pb.SandboxSpec(**{one.name: value for one, value in given.ListFields() if one.name in paths}))


def _as_before(made: Resources, before: Resources) -> Resources:
    """Returns `made` with the amounts that do not change as they were written before: a restart for them is in vain."""
    same = {
        name: getattr(before, name)
        for name, kind in _MEMBERS.items()
        if kind.fits(getattr(made, name)) == kind.fits(getattr(before, name))
    }
    return dataclasses.replace(made, **same)
