"""Finds out what is at an address that no call could reach. gRPC's error only describes the last address it has tried."""

import contextlib
import enum
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

from sandbox_client import channel

CONNECT = 1.0
"""Seconds to connect, and then for an answer."""

LONG = 2.0
"""Seconds until a person is told why nothing happens. A restart of the service takes about one."""


class Found(enum.Enum):
    """What is at an address."""

    NOTHING = enum.auto()
    """The host name is not known, or the connection fails."""
    SILENT = enum.auto()
    """A listener that accepts connections and does not answer."""
    TLS = enum.auto()
    """A listener that speaks TLS."""
    PLAIN = enum.auto()
    """A listener that does not speak TLS."""
    UNKNOWN = enum.auto()
    """Not known, because only gRPC can resolve the address."""


UNREACHED = (Found.NOTHING, Found.SILENT)


def look(server: str) -> Found:
    """Connects to the server and begins a TLS handshake. Returns what it finds, and raises nothing."""
    try:
        places = _places(server)
    except (OSError, UnicodeError):
        return Found.NOTHING
    for family, kind, address in places[:4]:
        with contextlib.suppress(OSError), socket.socket(family, kind) as connection:
            connection.settimeout(CONNECT)
            connection.connect(address)
            return _speaks(connection)
    return Found.NOTHING if places else Found.UNKNOWN


def _places(server: str) -> list[tuple[socket.AddressFamily, socket.SocketKind, Any]]:
    """Returns the socket addresses of a server, none if only gRPC can resolve it.

    Raises OSError or UnicodeError for a host that cannot be resolved.
    """
    scheme, _, path = server.partition(":")
    if scheme == "unix":
        return [(socket.AF_UNIX, socket.SOCK_STREAM, path.removeprefix("//"))]
    if scheme == "unix-abstract":
        return [(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{path}")]
    place = channel.place(server)
    if place is None:
        return []
    host, port = place
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, kind, address) for family, kind, _, _, address in found]


def _speaks(connection: socket.socket) -> Found:
    context = ssl.create_default_context()
    # Nothing is sent after the handshake, so that the certificate does not matter.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        context.wrap_socket(connection).close()
    except TimeoutError:
        return Found.SILENT
    except OSError:
        return Found.PLAIN
    return Found.TLS


@contextlib.contextmanager
def patiently(server: str, report: Callable[[], None]) -> Iterator[None]:
    """Calls `report` once if the body takes longer than `LONG` and nothing answers at `server`."""
    ended = threading.Event()

    def check() -> None:
        if look(server) in (*UNREACHED, Found.UNKNOWN) and not ended.is_set():
            report()

    timer = threading.Timer(LONG, check)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        ended.set()
        timer.cancel()
