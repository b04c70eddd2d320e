"""The last step of every mutation: waits for the phase if asked to, and prints the sandbox."""

from collections.abc import Callable
from typing import Annotated

import typer
from sandbox.v1 import sandbox_pb2 as pb

from sandboxctl import show
from sandboxctl.options import chosen

Id = Annotated[str, typer.Argument(help="the sandbox's id", show_default=False)]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="wait until it is so, showing the way")]
Patience = Annotated[
    float, typer.Option(help="seconds for which --wait bears with an error that may pass without the caller")
]
Timeout = Annotated[float, typer.Option(help="seconds to wait")]


def settled(sandbox: pb.Sandbox, phase: str, wait: bool, patience: float, timeout: float) -> None:
    """Prints the sandbox; with `wait` after it has reached the phase. Raises as `waited`."""
    if wait:
        sandbox = waited(sandbox, phase, patience, timeout, show.progress())
    if chosen.json:
        show.as_json(sandbox)
    else:
        show.status(sandbox.status)


def waited(
    sandbox: pb.Sandbox, phase: str, patience: float, timeout: float, progress: Callable[[pb.SandboxStatus], None]
) -> pb.Sandbox:
    """Waits for the phase and returns the sandbox. Raises `errors.SandboxFailed` or `errors.TimedOut`."""
    chosen.client.wait_until(
        sandbox.sandbox_id,
        phase,
        namespace=sandbox.namespace,
        generation=sandbox.status.generation,
        timeout=timeout,
        fail_on_error=True,
        patience=patience,
        progress=progress,
        lost=show.lost,
        back=show.back,
    )
    return chosen.client.get(sandbox.sandbox_id, namespace=sandbox.namespace)
