"""The commands that read sandboxes by their ids: `status`, `get`, `describe`, `wait` and `open`."""

import sys
import urllib.parse
import webbrowser
from collections.abc import Callable
from typing import Annotated

import grpc
import typer
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_client import calls, errors
from sandbox_client.retry import PATIENCE

from sandboxctl import answers, completion, details, history, options, settling, show, targets
from sandboxctl.options import chosen
from sandboxctl.settling import Patience, Timeout, Waiting
from sandboxctl.targets import Ids, Selector

_EVENTS = 10
"""How many events `describe` shows."""


def status(
    sandbox_ids: Ids = None,
    selector: Selector = "",
    usage: Annotated[bool, typer.Option("--usage", help="measure how full the disks are")] = False,
) -> None:
    """Show the status of sandboxes, and why it is so."""
    meant = targets.of(sandbox_ids, selector)

    def read(namespace: str, sandbox_id: str) -> pb.SandboxStatus:
        if usage:
            return _measured(namespace, sandbox_id)
        return chosen.client.status(sandbox_id, namespace=namespace)

    settling.collected(meant, read, lambda found: answers.statuses(found, meant.single))


def _measured(namespace: str, sandbox_id: str) -> pb.SandboxStatus:
    """Returns a status with how full the disk is, and prints why where that is not known."""
    call = calls.status(sandbox_id, namespace=namespace, include_usage=True)
    whole: calls.Call[pb.GetStatusResponse] = calls.Call(call.method, call.request, "", call.timeout)
    answer = chosen.client.call(whole)
    if answer.HasField("usage_missing"):
        missing = answer.usage_missing
        show.err.print(f"{sandbox_id}: the disk was not measured: {missing.reason}: {show.printable(missing.message)}")
    return answer.status


def get(sandbox_ids: Ids = None, selector: Selector = "") -> None:
    """Print sandboxes with their specs, as JSON unless another format is given."""
    if chosen.output is options.Output.TABLE:
        chosen.given.output = options.Output.JSON
    _with_specs(sandbox_ids, selector, answers.sandbox)


def describe(sandbox_ids: Ids = None, selector: Selector = "") -> None:
    """Show all that is known of sandboxes, and what to do."""
    _with_specs(sandbox_ids, selector, _described)


def wait(
    sandbox_ids: Ids = None,
    selector: Selector = "",
    phase: Annotated[
        str, typer.Option("--for", help="a phase; default: what was asked for last", autocompletion=completion.phases)
    ] = "",
    patience: Patience = PATIENCE,
    timeout: Timeout = 600,
) -> None:
    """Wait until sandboxes have a phase, showing the way."""
    try:
        calls.phase(phase or "RUNNING")
    except ValueError:
        raise typer.BadParameter("must be a phase such as RUNNING", param_hint="--for") from None

    def act(namespace: str, sandbox_id: str) -> pb.Sandbox:
        return chosen.client.get(sandbox_id, namespace=namespace)

    settling.done(targets.of(sandbox_ids, selector), act, Waiting(True, patience, timeout, phase))


def open_(
    sandbox_id: Annotated[
        str, typer.Argument(help="id, or namespace/id", show_default=False, autocompletion=completion.ids)
    ],
    terminal: Annotated[bool, typer.Option("--terminal", help="its web terminal instead of its application")] = False,
    print_only: Annotated[bool, typer.Option("--print", help="only print the URL")] = False,
) -> None:
    """Open a sandbox's application in the browser, and print its URL. Without a terminal it is only printed."""
    namespace, name = targets.named(sandbox_id)
    found = chosen.client.status(name, namespace=namespace)
    url = found.ttyd_url if terminal else found.public_url
    what = "web terminal" if terminal else "application"
    if details.gone(found) or urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        show.failure("error", f"{name} has no {what}: it is {show.phase(found)}")
        raise typer.Exit(1)
    if found.phase != pb.PHASE_RUNNING:
        show.err.print(f"{name} is {show.phase(found)}: its {what} may not answer")
    if not answers.structured({"url": url}):
        show.out.print(show.printable(url))
    if not print_only and on_terminal() and not webbrowser.open(url):
        show.err.print("no browser was found")


def _described(one: pb.Sandbox) -> None:
    try:
        newest = list(history.newest(one.namespace, one.sandbox_id, "", 0, _EVENTS, ""))
    except errors.ServiceError as error:
        if error.code is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        # The service is of a release without a history.
        newest = []
    of_this_one = [event for event in reversed(newest) if event.status.uid == one.uid]
    show.out.print(details.described(one, history.table(of_this_one, several=False)))


def on_terminal() -> bool:
    """Whether a person sees the answer."""
    return sys.stdout.isatty()


def _with_specs(sandbox_ids: list[str] | None, selector: str, one_for_people: Callable[[pb.Sandbox], None]) -> None:
    meant = targets.of(sandbox_ids, selector)

    def read(namespace: str, sandbox_id: str) -> pb.Sandbox:
        return chosen.client.get(sandbox_id, namespace=namespace)

    def answer(found: list[pb.Sandbox]) -> None:
        if chosen.output is not options.Output.TABLE:
            answers.sandbox(found[0]) if meant.single else answers.sandboxes(found, meant.none)
            return
        for number, one in enumerate(found):
            if number:
                show.out.print()
            one_for_people(one)
        if not found:
            show.err.print(meant.none)

    settling.collected(meant, read, answer)
