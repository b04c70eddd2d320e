"""`sandboxctl top`: a live view of the fleet on the whole screen."""

import asyncio
import importlib.util
import sys
from collections.abc import AsyncGenerator, Callable
from typing import Annotated

import typer
from sandbox_client import errors
from sandbox_client.aio import AsyncClient
from sandbox_client.watch import Event

from sandboxctl import show
from sandboxctl.options import chosen
from sandboxctl.targets import Tenant


def top(
    project: Annotated[str, typer.Option("--project", "-p", help="those of this project")] = "",
    selector: Annotated[str, typer.Option("--selector", "-l", help="by label: a=b,c in (d,e),!f")] = "",
    tenant: Tenant = "",
) -> None:
    """Show sandboxes live on the whole screen: / filters, s sorts, r reverses, q quits."""
    if importlib.util.find_spec("textual") is None:
        show.failure("error", "top needs Textual: pip install 'sandbox-service[top]'")
        raise typer.Exit(1)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        show.failure("error", "top needs a terminal: elsewhere use list or watch")
        raise typer.Exit(2)
    # A service that is not there, or refuses, is said before the screen opens.
    chosen.client.page(namespace=chosen.namespace, project=project, label_selector=selector, tenant=tenant, page_size=1)
    asyncio.run(_shown(project, selector, tenant))


async def _shown(project: str, selector: str, tenant: str) -> None:
    """Shows the screen until the person quits. Raises `ServiceError` if the watch could not go on."""
    from sandboxctl import screen

    async with chosen.connected(AsyncClient) as client:

        def watch(lost: Callable[[errors.ServiceError], None], back: Callable[[], None]) -> AsyncGenerator[Event, None]:
            return client.watch(
                namespace=chosen.namespace,
                project=project,
                label_selector=selector,
                tenant=tenant,
                lost=lost,
                back=back,
            )

        view = screen.Top(watch)
        await view.run_async()
    if view.failure is not None:
        raise view.failure
