"""TLS from files that may be replaced while they are served."""

import ssl
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509

from sandbox_server import files


def credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """Credentials that are read again for each new connection when the files changed.

    Raises ValueError for a pair that does not fit, cannot be read or is not valid now. Such a pair in their place later
    is not taken up: the files may be half replaced.
    """
    pair = files.Reloaded(lambda: _read(certificate, key), certificate, key)
    served = pair()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal served
        now = pair()
        if now == served:
            return None
        served = now
        return grpc.ssl_server_certificate_configuration([now])

    first = grpc.ssl_server_certificate_configuration([served])
    return grpc.dynamic_ssl_server_credentials(first, fetch)  # type: ignore[arg-type]


def _read(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    """The key and the certificate chain, in the order that gRPC takes them."""
    chain = files.read("tls-cert", certificate)
    pair = files.read("tls-key", key), chain
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, files.no_passphrase)
    except (OSError, ValueError) as error:
        raise ValueError(f"tls-cert, tls-key: {certificate}, {key}: {error}") from None
    leaf, now = x509.load_pem_x509_certificate(pair[1]), datetime.now(UTC)
    if leaf.not_valid_after_utc < now:
        raise ValueError(f"tls-cert: {certificate} expired on {leaf.not_valid_after_utc:%Y-%m-%d}: renew it")
    if leaf.not_valid_before_utc > now:
        begins = f"{leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise ValueError(f"tls-cert: {certificate} is not valid before {begins}: wait, or set this machine's clock")
    return pair
