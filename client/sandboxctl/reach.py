"""What is found at an address where no call got through: gRPC's words name one of several addresses, the last one tried."""

import contextlib
import enum
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

from sandbox_client import channel

CONNECT = 1.0
"""Seconds for a connection, and for an answer on it."""


LONG = 2.0
"""Seconds after which a person wants to hear why nothing happens: a restart of the service takes about one."""


class Found(enum.Enum):
    """What is at an address."""

    NOTHING = enum.auto()
    """The name is not known, or nothing can be connected to."""
    SILENT = enum.auto()
    """It takes the connection and answers nothing."""
    TLS = enum.auto()
    PLAIN = enum.auto()
    """It does not speak TLS."""
    UNKNOWN = enum.auto()
    """Only gRPC knows what this address means."""


UNREACHED = (Found.NOTHING, Found.SILENT)


def look(server: str) -> Found:
    """Connects to the server, and asks it to speak TLS."""
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
    """The sockets that an address leads to; none where only gRPC knows. Raises OSError and UnicodeError."""
    scheme, _, path = server.partition(":")
    if scheme == "unix":
        return [(socket.AF_UNIX, socket.SOCK_STREAM, path.removeprefix("//"))]
    if scheme == "unix-abstract":
        return [(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{path}")]
    if (place := channel.place(server)) is None:
        return []
    found = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
    return [(family, kind, address) for family, kind, _, _, address in found]


def _speaks(connection: socket.socket) -> Found:
    context = ssl.create_default_context()
    # Nothing is sent but the question.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        context.wrap_socket(connection).close()
    except TimeoutError:
        return Found.SILENT
    except OSError:
        return Found.PLAIN
    return Found.TLS


@contextlib.contextmanager
def patiently(server: str, say: Callable[[], None]) -> Iterator[None]:
    """Calls `say`, once, when this takes long and nothing is seen to answer at `server`."""
    ended = threading.Event()

    def judge() -> None:
        if look(server) in (*UNREACHED, Found.UNKNOWN) and not ended.is_set():
            say()

    timer = threading.Timer(LONG, judge)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        ended.set()
        timer.cancel()
