"""How the service is reached: address, TLS, token."""

import codecs
import ipaddress
import re
import ssl
from pathlib import Path

import grpc

OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # A silent connection is noticed within a minute: that is what keeps a quiet watch from hanging for ever.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # It is this time-out, a minute by default, that ends a connection whose peer is there and answers nothing.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # How long a connection may take, twenty seconds by default: what does not answer is said to be unreachable sooner.
    ("grpc.min_reconnect_backoff_ms", 4_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
)


SCHEMES = ("unix:", "unix-abstract:", "vsock:", "dns:", "ipv4:", "ipv6:", "xds:")
"""Of gRPC's own names."""
_RESOLVED = re.compile(r"(?:dns:(?:///)?|ipv[46]:)?(.+)")
"""What is before a host and a port in the names of which gRPC looks up the host; not of a name server that says where
localhost is."""
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[^\]/]+)?\]|[A-Za-z0-9_.-]+):([0-9]{1,5})")
_NAME = re.compile(r"(?=.{1,254}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


def place(address: str) -> tuple[str, int] | None:
    """The host, without brackets, and the port that an address names; None where it names none, as a socket's path."""
    resolved = _RESOLVED.fullmatch(address)
    found = _HOST_AND_PORT.fullmatch(resolved[1]) if resolved else None
    if found is None or not 0 < int(found[2]) <= 65535:
        return None
    host = found[1].strip("[]")
    if found[1] == host:
        return (host, int(found[2])) if _NAME.fullmatch(host) else None
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return None
    return host, int(found[2])


def check(address: str) -> None:
    """Raises ValueError for what cannot be an address, without showing it; gRPC would try it until the time is over.

    What follows the scheme of one of gRPC's own names is left to gRPC.
    """
    scheme = next((one for one in SCHEMES if address.startswith(one)), "")
    if address.removeprefix(scheme).strip("/ ") if scheme else place(address):
        return
    if not address:
        wrong = "it is empty"
    elif scheme:
        wrong = f"nothing follows {scheme}"
    elif any(one.isspace() for one in address):
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
    """Whether what is sent there stays on this machine. A name other than localhost does not count, however it looks."""
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
    """The channel's options. The environment's HTTP proxy is another machine: it cannot reach this one's loopback."""
    return (*OPTIONS, ("grpc.enable_http_proxy", 0)) if is_loopback(address) else OPTIONS


def metadata(address: str, token: str, tls: bool) -> tuple[tuple[str, str], ...]:
    """What goes with every call. Raises ValueError rather than send a token in the clear over a network."""
    if not token:
        return ()
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ValueError("a token is of visible ASCII characters: look at the file or variable it comes from")
    if not tls and not is_loopback(address):
        raise ValueError("a token is not sent in plaintext to another machine: use TLS")
    return (("authorization", f"Bearer {token}"),)


def credentials(ca_file: str | Path | None) -> grpc.ChannelCredentials:
    """TLS with the system's authorities, or those of a PEM file.

    Raises OSError and ValueError for a file that cannot be read or has no certificate: gRPC would take the system's
    authorities for an empty one, and try any other until the time is over.
    """
    if not ca_file:
        return grpc.ssl_channel_credentials()
    pem = Path(ca_file).read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_file)
    except ssl.SSLError:
        raise ValueError(f"{ca_file} has no certificate in PEM: give the file of an authority") from None
    return grpc.ssl_channel_credentials(pem)
