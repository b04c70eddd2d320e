"""TLS credentials from files that may be replaced while the service runs."""

import codecs
import ssl
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sandbox_server import files
from sandbox_server.domain.pace import Pace


def credentials(certificate: Path, key: Path, pace: Pace) -> grpc.ServerCredentials:
    """Returns credentials that are read again, when the files have changed, for the next new connection.

    Raises ValueError for a certificate and a key that do not belong together, cannot be read or are not valid now.
    Such a pair that comes later is ignored: the files may be half replaced.
    """
    pair = files.Reloaded(lambda: _read(certificate, key), certificate, key, again=pace.files_again)
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


def context(certificate: Path, key: Path, pace: Pace) -> ssl.SSLContext:
    """Returns a context for HTTPS that goes with the files as `credentials` do. Raises ValueError as these."""
    pair = files.Reloaded(lambda: _loaded(certificate, key), certificate, key, again=pace.files_again)
    served = _loaded(certificate, key)

    def renew(handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        handshake.context = pair()

    served.sni_callback = renew
    return served


def _loaded(certificate: Path, key: Path) -> ssl.SSLContext:
    _read(certificate, key)
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(certificate, key, files.no_passphrase)
    return made


def expiry(certificate: Path, key: Path) -> datetime:
    """Returns until when a certificate is valid. Raises ValueError for files that would not be served; see `credentials`."""
    _, chain = _read(certificate, key)
    return x509.load_pem_x509_certificate(chain).not_valid_after_utc


def _read(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    """Returns the key and the certificate chain, in gRPC's order. Raises ValueError; see `credentials`."""
    # OpenSSL ignores a byte order mark; gRPC finds no certificate behind it.
    chain = files.read("tls-cert", certificate).removeprefix(codecs.BOM_UTF8)
    private = files.read("tls-key", key).removeprefix(codecs.BOM_UTF8)
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, files.no_passphrase)
    except (OSError, ValueError) as error:
        raise ValueError(f"tls-cert, tls-key: {certificate}, {key}: {error}") from None
    leaf = x509.load_pem_x509_certificate(chain)
    now = datetime.now(UTC)
    if not _is_accepted(leaf.public_key()):
        raise ValueError(f"tls-cert: {certificate} has a key that gRPC does not take: use RSA, or EC on P-256 or P-384")
    if leaf.not_valid_after_utc < now:
        raise ValueError(f"tls-cert: {certificate} expired on {leaf.not_valid_after_utc:%Y-%m-%d}: renew it")
    if leaf.not_valid_before_utc > now:
        begins = f"{leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise ValueError(f"tls-cert: {certificate} is not valid before {begins}: wait, or set this machine's clock")
    return private, chain


def _is_accepted(key: object) -> bool:
    """Whether every gRPC client, the health check included, accepts a certificate with such a key."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
    return isinstance(key, rsa.RSAPublicKey)
