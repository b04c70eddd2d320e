"""TLS from files that may be replaced while they are served."""

import codecs
import ssl
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

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
    # OpenSSL passes over a byte order mark, gRPC finds no certificate behind it.
    pair = files.read("tls-key", key).removeprefix(codecs.BOM_UTF8), chain.removeprefix(codecs.BOM_UTF8)
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, files.no_passphrase)
    except (OSError, ValueError) as error:
        raise ValueError(f"tls-cert, tls-key: {certificate}, {key}: {error}") from None
    leaf, now = x509.load_pem_x509_certificate(pair[1]), datetime.now(UTC)
    if not _is_served(leaf.public_key()):
        raise ValueError(f"tls-cert: {certificate} has a key that gRPC does not take: use RSA, or EC on P-256 or P-384")
    if leaf.not_valid_after_utc < now:
        raise ValueError(f"tls-cert: {certificate} expired on {leaf.not_valid_after_utc:%Y-%m-%d}: renew it")
    if leaf.not_valid_before_utc > now:
        begins = f"{leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise ValueError(f"tls-cert: {certificate} is not valid before {begins}: wait, or set this machine's clock")
    return pair


def _is_served(key: object) -> bool:
    """Whether every client of gRPC takes a certificate for a key, the health check too. Some clients take other keys."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
    return isinstance(key, rsa.RSAPublicKey)
