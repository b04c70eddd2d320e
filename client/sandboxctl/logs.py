"""The command `logs`."""

import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from sandbox_client.logs import LogGap, LogLines

from sandboxctl import show, targets
from sandboxctl.options import chosen
from sandboxctl.targets import Id


def logs(
    sandbox_id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the process ends, or Ctrl-C")] = False,
    previous: Annotated[bool, typer.Option("--previous", help="of the process before the current one")] = False,
    tail: Annotated[int | None, typer.Option(help="begin with so many lines at the end")] = None,
    since: Annotated[float | None, typer.Option(help="what was printed in the last so many seconds")] = None,
) -> None:
    """Show what the process of a sandbox has printed."""
    namespace, name = targets.named(sandbox_id)
    events = chosen.client.logs(
        name,
        follow=follow,
        previous=previous,
        tail=tail,
        since=None if since is None else datetime.now(UTC) - timedelta(seconds=since),
        namespace=namespace,
        lost=show.lost,
        back=show.back,
    )
    for event in events:
        if isinstance(event, LogLines):
            sys.stdout.buffer.write(event.data)
            sys.stdout.buffer.flush()
        elif isinstance(event, LogGap):
            show.err.print("output is missing here: it is no longer kept")
        else:
            show.err.print(f"the process has ended: {event.reason}")
