"""Serves the page of terminals, and the WebSockets that it opens. Neither a ticket nor a token is ever in a URL or a log."""

import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path

from aiohttp import web

from sandbox_server.domain import check, errors
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.tenant import Tenant
from sandbox_server.terminal.sessions import MESSAGE_MOST, Sessions

PROTOCOL = "terminal.sandbox.v1"
_TICKET = "ticket."
"""What the other subprotocol begins with that the page offers: the ticket follows."""
_STATIC = Path(__file__).with_name("static")
_FILES = {
    "xterm.js": "text/javascript",
    "addon-fit.js": "text/javascript",
    "terminal.js": "text/javascript",
    "xterm.css": "text/css",
    "terminal.css": "text/css",
}


class Page:
    """What browsers ask for."""

    def __init__(self, sessions: Sessions, others: Collection[str], anyone: Tenant | None, pace: Pace) -> None:
        """`others` are web origins of which pages may show this one or use its tickets.

        `anyone` is the tenant that calls without a token belong to: the page then fetches its tickets itself.
        """
        self._sessions = sessions
        self._ping_every = pace.terminal_ping
        self._own = frozenset[str]()
        self._others = frozenset(others)
        self._anyone = anyone
        ancestors = " ".join(sorted(others)) or "'none'"
        self._headers = {
            "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
            f"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors {ancestors}",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }

    @contextlib.asynccontextmanager
    async def served(self, addresses: Sequence[str], url: str, context: ssl.SSLContext | None) -> AsyncIterator[str]:
        """Serves at the first of the addresses that is free, and yields where browsers reach the page: `url`, or if
        that is empty the address itself.

        Raises OSError if it can listen at none of them.
        """
        made = web.Application(client_max_size=MESSAGE_MOST)
        made.router.add_get("/terminals/{namespace}/{sandbox_id}", self._page)
        made.router.add_post("/terminals/{namespace}/{sandbox_id}/ticket", self._ticket)
        made.router.add_get("/attach", self._attach)
        made.router.add_get("/static/{name}", self._file)
        # Without a log of requests, and so without any header of theirs.
        runner = web.AppRunner(made, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            host = await _listening(runner, addresses, context)
            own = url or f"{'http' if context is None else 'https'}://{host}:{runner.addresses[0][1]}"
            # The name and the address of this machine are one to who sits at it. Any other name may be somebody else's.
            self._own = frozenset({own, own.replace("//127.0.0.1:", "//localhost:")})
            yield own
        finally:
            await runner.cleanup()

    async def _page(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=_read("terminal.html"), content_type="text/html", charset="utf-8", headers=self._headers
        )

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in _FILES:
            raise web.HTTPNotFound(headers=self._headers)
        return web.Response(body=_read(name), content_type=_FILES[name], charset="utf-8", headers=self._headers)

    async def _ticket(self, request: web.Request) -> web.StreamResponse:
        """Gives the page of a service without tokens a ticket. Only the page may ask, not that of another origin."""
        if request.headers.get("Origin") not in self._own:
            raise web.HTTPForbidden(headers=self._headers)
        if self._anyone is None:
            raise web.HTTPUnauthorized(headers=self._headers)
        namespace, sandbox_id = request.match_info["namespace"], request.match_info["sandbox_id"]
        found = [*check.namespace("namespace", namespace, True), *check.sandbox_id("sandbox_id", sandbox_id, True)]
        if found or namespace not in self._anyone.namespaces:
            raise web.HTTPNotFound(headers=self._headers)
        try:
            ticket, _ = await self._sessions.ticket(self._anyone, self._anyone.key(namespace, sandbox_id))
        except errors.ServiceError as error:
            return web.json_response({"refused": str(error)}, headers=self._headers)
        return web.json_response({"ticket": ticket}, headers=self._headers)

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        """Serves a WebSocket. A browser says where its page is from, and nothing else than a page has a use for it."""
        if request.headers.get("Origin") not in self._own | self._others:
            raise web.HTTPForbidden(headers=self._headers)
        offered = [one.strip() for one in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        ticket = next((one.removeprefix(_TICKET) for one in offered if one.startswith(_TICKET)), "")
        socket = web.WebSocketResponse(protocols=(PROTOCOL,), heartbeat=self._ping_every, max_msg_size=MESSAGE_MOST)
        await socket.prepare(request)
        await self._sessions.serve(ticket, socket)
        return socket


async def _listening(runner: web.AppRunner, addresses: Sequence[str], context: ssl.SSLContext | None) -> str:
    """Listens at the first of the addresses that is free, and returns its host. Raises OSError if none is."""
    refused = ""
    for address in addresses:
        host, _, port = address.rpartition(":")
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=context).start()
        except OSError as error:
            refused = f"{address} cannot be had: {error}"
        else:
            return host
    raise OSError(f"access-listen: {refused}: name another one, or none")


@functools.cache
def _read(name: str) -> bytes:
    return (_STATIC / name).read_bytes()
