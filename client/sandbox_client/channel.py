"""The connection to the service: its address, TLS and token."""

import codecs
import ipaddress
import re
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
from sandbox.v1 import access_pb2_grpc, sandbox_pb2_grpc, schedule_pb2_grpc, snapshot_pb2_grpc

OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # A dead connection is noticed within a minute. Otherwise a watch without events could hang for ever.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Ends a connection to a peer that accepts data and answers nothing. A minute by default.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # The time that connecting may take, 20 s by default. Shorter, so that an unreachable service is reported sooner.
    ("grpc.min_reconnect_backoff_ms", 4_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
)


SCHEMES = ("unix:", "unix-abstract:", "vsock:", "dns:", "ipv4:", "ipv6:", "xds:")
"""The schemes of gRPC's own names."""
_RESOLVED = re.compile(r"(?:dns:(?:///)?|ipv[46]:)?(.+)")
"""A host and a port after an optional scheme. A dns name with a name server does not match: that server could say that
localhost is another machine."""
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[^\]/]+)?\]|[A-Za-z0-9_.-]+):([0-9]{1,5})")
_NAME = re.compile(r"(?=.{1,254}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


def place(address: str) -> tuple[str, int] | None:
    """Returns the host, without brackets, and the port of an address.

    Returns None if it has none, as the path of a socket, or if they are not valid.
    """
    resolved = _RESOLVED.fullmatch(address)
    found = None if resolved is None else _HOST_AND_PORT.fullmatch(resolved[1])
    if found is None:
        return None
    host = found[1].strip("[]")
    in_brackets = host != found[1]
    port = int(found[2])
    valid_host = _is_ipv6(host) if in_brackets else _NAME.fullmatch(host) is not None
    return (host, port) if valid_host and 1 <= port <= 65535 else None


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def check(address: str) -> None:
    """Raises ValueError, without the address in it, if `address` cannot be one. gRPC would try it until the call times out.

    Of a name with one of gRPC's schemes only the scheme is checked.
    """
    scheme = next((scheme for scheme in SCHEMES if address.startswith(scheme)), "")
    valid = address.removeprefix(scheme).strip("/ ") != "" if scheme else place(address) is not None
    if valid:
        return
    if not address:
        wrong = "it is empty"
    elif scheme:
        wrong = f"nothing follows {scheme}"
    elif any(character.isspace() for character in address):
        wrong = "it has white space in it"
    elif "://" in address:
        wrong = f"leave {address.partition('://')[0][:20]}:// out; TLS is an option of its own"
    elif "/" in address:
        wrong = "leave out the / and what follows it"
    elif "@" in address:
        wrong = "it has no user: a token is an option of its own"
    elif address.count(":") > 1 and "]" not in address:
        wrong = "an IPv6 address is in brackets, as in [::1]:50051"
    elif ":" not in address.rpartition("]")[2]:
        wrong = "it has no port"
    else:
        wrong = "its port is a number from 1 to 65535 and its host a name or an address"
    raise ValueError(f"the server's address must be HOST:PORT, such as 127.0.0.1:50051: {wrong}")


def is_loopback(address: str) -> bool:
    """Whether the address is on this machine. Of all host names only localhost counts."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    found = place(address)
    if found is None:
        return False
    try:
        return found[0].lower() == "localhost" or ipaddress.ip_address(found[0]).is_loopback
    except ValueError:
        return False


def options(address: str) -> tuple[tuple[str, int], ...]:
    """Returns the options of a channel. An HTTP proxy is not used for loopback, since another machine cannot reach it."""
    return (*OPTIONS, ("grpc.enable_http_proxy", 0)) if is_loopback(address) else OPTIONS


def metadata(address: str, token: str, tls: bool) -> tuple[tuple[str, str], ...]:
    """Returns the metadata of every call, which is the token if there is one.

    Raises ValueError for a token that gRPC cannot send, and for a token that would be sent to another machine without TLS.
    """
    if not token:
        return ()
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ValueError("a token is of visible ASCII characters: look at the file or variable it comes from")
    if not tls and not is_loopback(address):
        raise ValueError("a token is not sent in plaintext to another machine: use TLS")
    return (("authorization", f"Bearer {token}"),)


def credentials(ca_file: str | Path | None) -> grpc.ChannelCredentials:
    """Returns TLS credentials with the system's authorities, or those of a PEM file.

    Raises OSError or ValueError for a file that cannot be read or has no certificate. gRPC would use the system's
    authorities instead of an empty file, and try any other bad file until the call times out.
    """
    if not ca_file:
        return grpc.ssl_channel_credentials()
    pem = Path(ca_file).read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_file)
    except ssl.SSLError:
        raise ValueError(f"{ca_file} has no certificate in PEM: give the file of an authority") from None
    return grpc.ssl_channel_credentials(pem)


def stub(over: grpc.Channel | grpc.aio.Channel) -> Any:
    """Returns the methods of all services of the contract."""
    services: tuple[Any, ...] = (
        sandbox_pb2_grpc.SandboxServiceStub,
        access_pb2_grpc.SandboxAccessStub,
        snapshot_pb2_grpc.SnapshotServiceStub,
        schedule_pb2_grpc.ScheduleServiceStub,
    )
    methods = SimpleNamespace()
    for service in services:
        vars(methods).update(vars(service(over)))
    return methods
