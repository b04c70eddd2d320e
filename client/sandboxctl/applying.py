"""`sandboxctl apply`: makes sandboxes be as a file says."""

import functools
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import calls, errors
from sandbox_client.retry import PATIENCE

from sandboxctl import answers, comparison, manifest, settling, show
from sandboxctl.options import chosen
from sandboxctl.settling import Patience, Timeout, Wait, Waiting


@dataclass
class Result:
    """What was, or would be, done about one sandbox of the file."""

    name: str
    action: str
    differences: list[str] = field(default_factory=list)
    sandbox: pb.Sandbox | None = None


def apply(
    file: Annotated[
        Path, typer.Option("--file", "-f", help="YAML with the fields of CreateSandboxRequest; - is standard input")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")] = False,
    wait: Wait = False,
    patience: Patience = PATIENCE,
    timeout: Timeout = 600,
) -> None:
    """Create the sandboxes of a file that are missing, and update the others.

    A sandbox that differs in what no update changes stays as it is: that is said, with exit code 1.
    """
    try:
        asked = manifest.read(sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--file") from None
    failed = settling.Failed()
    results: list[Result] = []
    try:
        for request in asked:
            results += failed.tried(request.sandbox_id, functools.partial(_applied, request, dry_run))
        waiting = Waiting(wait and not dry_run, patience, timeout)
        settling.waited_for([one.sandbox for one in results if one.sandbox is not None], waiting, failed)
    finally:
        _print(results)
        code = failed.explained()
    if code or any(one.action == "differs" for one in results):
        raise typer.Exit(code or 1)


def _applied(request: pb.CreateSandboxRequest, dry_run: bool) -> Result:
    request.namespace = request.namespace or chosen.namespace
    try:
        found = chosen.client.get(request.sandbox_id, namespace=request.namespace)
    except errors.NotFound:
        found = None
    name = f"{found.namespace if found else request.namespace}/{request.sandbox_id}".lstrip("/")
    if found is None or found.desired_state == pb.DESIRED_STATE_DELETED:
        if dry_run:
            return Result(name, "would be created")
        request.request_id = request.request_id or str(uuid.uuid4())
        create: calls.Call[pb.Sandbox] = calls.Call("CreateSandbox", request, "sandbox", None)
        made = chosen.client.call(create)
        return Result(f"{made.namespace}/{made.sandbox_id}", "created", sandbox=made)
    told = list(comparison.differences(request.spec, found.spec))
    if any(one.fixed for one in told):
        return Result(name, "differs", [str(one) for one in told])
    if dry_run:
        return _foretold(request, found, name, told)
    return _updated(request, found, name, told)


def _updated(
    request: pb.CreateSandboxRequest, found: pb.Sandbox, name: str, told: list[comparison.Difference]
) -> Result:
    """Updates spec and variables. Variables that are so already change and restart nothing."""
    sandbox = found
    if told:
        mask = FieldMask(paths=sorted({one.masked for one in told}))
        update = pb.UpdateSandboxRequest(
            request_id=str(uuid.uuid4()),
            sandbox_id=found.sandbox_id,
            namespace=found.namespace,
            expected_generation=found.status.generation,
            spec=request.spec,
            update_mask=mask,
        )
        call: calls.Call[pb.Sandbox] = calls.Call("UpdateSandbox", update, "sandbox", None)
        sandbox = chosen.client.call(call)
    if request.env:
        sandbox = chosen.client.update_env(sandbox, set=request.env, replace=True)
    same = sandbox.status.generation == found.status.generation
    return Result(name, "unchanged" if same else "updated", [str(one) for one in told], sandbox)


def _foretold(
    request: pb.CreateSandboxRequest, found: pb.Sandbox, name: str, told: list[comparison.Difference]
) -> Result:
    lines = [str(one) for one in told]
    if request.env:
        new, old = set(request.env), set(found.env_names)
        lines += [f"env {one} would be added" for one in sorted(new - old)]
        lines += [f"env {one} would be removed" for one in sorted(old - new)]
        if new & old:
            lines.append("env values would be set where they differ: the service shows none to compare with")
    return Result(name, "would be updated" if lines else "unchanged", lines)


def _print(results: list[Result]) -> None:
    values = [{"name": one.name, "action": one.action, "differences": one.differences} for one in results]
    if answers.structured({"results": values}):
        return
    for one in results:
        show.out.print(show.printable(f"{one.name} {one.action}"))
        for difference in one.differences:
            show.out.print(show.printable(f"  {difference}"))
