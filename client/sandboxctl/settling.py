"""What commands do to each of their sandboxes: a call, a wait for the phase if asked for, and the answer."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

import typer
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import errors

from sandboxctl import answers, failures, show
from sandboxctl.options import chosen
from sandboxctl.targets import Targets

T = TypeVar("T")

Wait = Annotated[bool, typer.Option("--wait", "-w", help="wait until it is so, showing the way")]
Patience = Annotated[
    float, typer.Option(help="seconds for which --wait bears with an error that may pass without the caller")
]
Timeout = Annotated[float, typer.Option(help="seconds to wait")]

_EVERYWHERE = (errors.Unavailable, errors.Unauthenticated)
"""What would be the answer for each of the other sandboxes too."""
_DESIRED = {pb.DESIRED_STATE_STOPPED: "STOPPED", pb.DESIRED_STATE_DELETED: "TERMINATED"}

Act = Callable[[str, str], pb.Sandbox]
"""The call for the sandbox of a namespace and an id."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How a command waits: for `phase`, or if it is empty for the desired state; seconds for all sandboxes together."""

    wanted: bool
    patience: float
    timeout: float
    phase: str = ""


class Failed:
    """The failures of some sandboxes, which end the command after all others had their turn."""

    def __init__(self) -> None:
        self._failed: list[tuple[str, errors.ServiceError | errors.SandboxFailed]] = []

    def tried(self, sandbox_id: str, work: Callable[[], T]) -> list[T]:
        """Returns what `work` returns, or nothing if it failed. Raises what would be the answer for the others too."""
        try:
            return [work()]
        except _EVERYWHERE:
            raise
        except (errors.ServiceError, errors.SandboxFailed) as failure:
            self._failed.append((sandbox_id, failure))
            return []

    def explained(self) -> int:
        """Says what went wrong with each sandbox. Returns the exit code of the last failure."""
        codes = [failures.exit_code(failures.explained(failure, name)) for name, failure in self._failed]
        return codes[-1] if codes else 0


def settled(sandbox: pb.Sandbox, waiting: Waiting) -> None:
    """Prints the sandbox, if asked to after it has reached the phase. Raises as `_waited`."""
    if waiting.wanted:
        sandbox = _waited(sandbox, waiting, waiting.timeout, show.progress())
    answers.sandbox(sandbox)


def done(targets: Targets, act: Act, waiting: Waiting) -> None:
    """Carries out a command on its sandboxes."""
    if targets.single:
        settled(act(*targets.names[0]), waiting)
    else:
        _each(targets, act, waiting)


def collected(targets: Targets, read: Callable[[str, str], T], answer: Callable[[list[T]], None]) -> None:
    """Reads something of each sandbox and passes to `answer` what there is, whatever becomes of the others."""
    failed = Failed()
    if targets.single:
        answer([read(*targets.names[0])])
        return
    found: list[T] = []
    for name in targets.names:
        found += failed.tried(name[1], functools.partial(read, *name))
    if found or not targets.names:
        answer(found)
    code = failed.explained()
    if code:
        raise typer.Exit(code)


def _each(targets: Targets, act: Act, waiting: Waiting) -> None:
    """Acts on each, whatever becomes of the others, and prints them.

    Ends the command with the exit code of the last failure.
    """
    failed = Failed()
    found: list[pb.Sandbox] = []
    try:
        for name in targets.names:
            found += failed.tried(name[1], functools.partial(act, *name))
        waited_for(found, waiting, failed)
    except BaseException:
        # The service went away, or Ctrl-C: what was done so far stays so. Whether the last one was is not known.
        if found:
            answers.sandboxes(found, targets.none)
        failed.explained()
        raise
    answers.sandboxes(found, targets.none)
    code = failed.explained()
    if code:
        raise typer.Exit(code)


def waited_for(found: list[pb.Sandbox], waiting: Waiting, failed: Failed) -> None:
    """Waits for each if asked to, and replaces it by the sandbox as it then is."""
    end = time.monotonic() + waiting.timeout
    for number, one in enumerate(found if waiting.wanted else ()):
        left = max(0.0, end - time.monotonic())
        wait = functools.partial(_waited, one, waiting, left, show.progress(one.sandbox_id))
        found[number : number + 1] = failed.tried(one.sandbox_id, wait) or [one]


def _waited(
    sandbox: pb.Sandbox, waiting: Waiting, timeout: float, progress: Callable[[pb.SandboxStatus], None]
) -> pb.Sandbox:
    """Waits for the phase and returns the sandbox. Raises `errors.SandboxFailed` or `errors.TimedOut`."""
    chosen.client.wait_until(
        sandbox,
        waiting.phase or _DESIRED.get(sandbox.desired_state, "RUNNING"),
        timeout=timeout,
        fail_on_error=True,
        patience=waiting.patience,
        progress=progress,
        lost=show.lost,
        back=show.back,
    )
    return chosen.client.get(sandbox)
