"""How the service is reached: address, TLS, token."""

import ipaddress
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
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
)


def is_loopback(address: str) -> bool:
    """Whether what is sent there stays on this machine. A name other than localhost does not count, however it looks."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0]
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
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
    """TLS with the system's authorities, or those of a PEM file."""
    return grpc.ssl_channel_credentials(Path(ca_file).read_bytes() if ca_file else None)
