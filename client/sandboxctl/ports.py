"""The command `port-forward`."""

import contextlib
import threading
from typing import Annotated

import typer
from sandbox_client import errors

from sandboxctl import show, targets
from sandboxctl.options import chosen
from sandboxctl.targets import Id


def port_forward(
    sandbox_id: Id,
    ports: Annotated[list[str], typer.Argument(help="PORT, LOCAL:PORT, or :PORT for any local one", metavar="PORT...")],
    address: Annotated[str, typer.Option(help="where to listen on this machine")] = "127.0.0.1",
) -> None:
    """Make TCP ports of a sandbox ports of this machine, until Ctrl-C."""
    namespace, name = targets.named(sandbox_id)
    chosen.client.status(name, namespace=namespace)
    with contextlib.ExitStack() as open_ones:
        for local, port in map(_pair, ports):
            made = chosen.client.forward(
                name, port, local_port=local, host=address, namespace=namespace, failed=_failed
            )
            open_ones.enter_context(made)
            show.out.print(f"{address}:{made.port} -> {show.printable(sandbox_id)}:{port}")
        threading.Event().wait()


def _pair(text: str) -> tuple[int, int]:
    """Returns the local port, 0 for any, and that of the sandbox. Raises `typer.BadParameter`."""
    local, colon, port = text.rpartition(":")
    try:
        pair = (int(local or 0) if colon else int(port), int(port))
    except ValueError:
        pair = (0, 0)
    if not (0 <= pair[0] < 65536 and 0 < pair[1] < 65536):
        raise typer.BadParameter(f"{show.printable(text)!r} must be PORT, LOCAL:PORT or :PORT")
    return pair


def _failed(error: errors.ServiceError) -> None:
    show.failure("connection ended", error.message)
