"""How the service is reached: address, TLS, token."""

from pathlib import Path

import grpc

OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # A silent connection is noticed within a minute: that is what keeps a quiet watch from hanging for ever.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
)


def metadata(address: str, token: str, tls: bool) -> tuple[tuple[str, str], ...]:
    """What goes with every call. Raises ValueError rather than send a token in the clear over a network."""
    if not token:
        return ()
    host = address.rpartition(":")[0]
    if not tls and not (
        host in ("localhost", "[::1]") or host.startswith("127.") or address.startswith("unix:")
    ):
        raise ValueError("a token is not sent in plaintext to another machine: use TLS")
    return (("authorization", f"Bearer {token}"),)


def credentials(ca_file: str | Path | None) -> grpc.ChannelCredentials:
    """TLS with the system's authorities, or those of a PEM file."""
    return grpc.ssl_channel_credentials(Path(ca_file).read_bytes() if ca_file else None)
