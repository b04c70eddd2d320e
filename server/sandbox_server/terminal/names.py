"""The names of sandboxes, where each has a terminal: one without its own has the page of the service."""

import dataclasses
from collections.abc import Callable

from sandbox_server import engines
from sandbox_server.domain.sandbox import Addresses, Key, Sandbox


class Names:
    """Completes the names that an engine gives; see `engines.Names`."""

    def __init__(self, given: engines.Names, page: Callable[[Key], str]) -> None:
        """`page` returns the URL of the page of a sandbox; empty if there is none."""
        self._given = given
        self._page = page

    def addresses(self, sandbox: Sandbox) -> Addresses:
        """Returns the addresses of a sandbox that is created. Raises as the engine does."""
        found = self._given.addresses(sandbox)
        return found if found.ttyd_url else dataclasses.replace(found, ttyd_url=self._page(sandbox.key))
