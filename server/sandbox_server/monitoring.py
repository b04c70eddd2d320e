"""What a cluster asks the service by HTTP, in plaintext and without a token: /metrics, /healthz and /readyz.

The kubelet's gRPC probe speaks no TLS, so that probes ask here. Threads of their own serve the answers.
"""

import asyncio
import concurrent.futures
import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING
from wsgiref import simple_server

import prometheus_client

from sandbox_server import metrics

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PROBE_MOST = 3.0
"""Seconds that the event loop may take to answer a probe, less than a kubelet waits."""


class _Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    """A thread for each request, so that a slow scrape keeps no probe waiting."""

    daemon_threads = True


class _Handler(simple_server.WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Does nothing."""


class Health:
    """Answers for the health, which it asks on the event loop."""

    def __init__(self, is_serving: Callable[[], bool]) -> None:
        """`is_serving` says whether a gRPC health check is answered with SERVING. Must be called on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._is_serving = is_serving

    def live(self) -> tuple[bool, str]:
        """Returns whether the event loop answers, and the answer in a word or a sentence."""
        answer, told = self._ask()
        return answer is not None, told if answer is None else "ok"

    def ready(self) -> tuple[bool, str]:
        """Returns whether the service is SERVING, and the answer in a word or a sentence."""
        answer, told = self._ask()
        return bool(answer), told

    def _ask(self) -> tuple[bool | None, str]:
        async def ask() -> bool:
            return self._is_serving()

        try:
            serving = asyncio.run_coroutine_threadsafe(ask(), self._loop).result(PROBE_MOST)
        except concurrent.futures.TimeoutError:
            return None, f"the event loop has not answered for {PROBE_MOST:g} s"
        return serving, "SERVING" if serving else "NOT_SERVING"


def _application(health: Health, scrape: "WSGIApplication") -> "WSGIApplication":
    """Returns what answers each path. An unknown path is not found, so that a mistyped probe fails."""
    probes = {"/healthz": health.live, "/readyz": health.ready}

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return scrape(environ, start_response)
        if path in probes:
            passed, told = probes[path]()
            status = "200 OK" if passed else "503 Service Unavailable"
        else:
            status, told = "404 Not Found", "ask for /metrics, /healthz or /readyz"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")])
        return [f"{told}\n".encode()]

    return answer


@contextlib.contextmanager
def served(listen: str, service: metrics.Service, health: Health) -> Iterator[None]:
    """Serves the metrics and the health at `listen` during the body. Raises OSError if it cannot listen."""
    scrape = prometheus_client.make_wsgi_app(metrics.registry(service))
    host, _, port = listen.rpartition(":")
    try:
        server = _listening(host.strip("[]"), int(port))
    except OSError as error:
        raise OSError(f"metrics-listen: {listen} cannot be had: {error}") from None
    server.set_app(_application(health, scrape))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _listening(host: str, port: int) -> _Server:
    """Returns a server of the address family of `host`. Raises OSError."""
    found, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)

    class OfFamily(_Server):
        address_family = found[0]

    return OfFamily((str(found[4][0]), port), _Handler)
