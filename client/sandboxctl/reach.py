"""What is found at an address where no call got through: gRPC's words name one of several addresses, the last one tried."""

import contextlib
import enum
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

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
    if server.startswith(channel.SCHEMES):
        return Found.UNKNOWN
    host, _, port = server.rpartition(":")
    try:
        places = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError:
        return Found.NOTHING
    for family, kind, protocol, _, place in places[:4]:
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as connection:
            connection.settimeout(CONNECT)
            connection.connect(place)
            return _speaks(connection)
    return Found.NOTHING


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
    """Calls `say`, once, when this takes long and nothing answers at `server`."""
    ended = threading.Event()

    def judge() -> None:
        if look(server) in UNREACHED and not ended.is_set():
            say()

    timer = threading.Timer(LONG, judge)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        ended.set()
        timer.cancel()
