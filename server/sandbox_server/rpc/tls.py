"""TLS from files that may be replaced while they are served."""

import ssl
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509


def credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """Credentials that are read again for each new connection when the files changed.

    Raises ValueError for a pair that does not fit, cannot be read or has expired. Such a pair in their place later is not
    taken up: the files may be half replaced.
    """
    known = _read(certificate, key)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal known
        try:
            if (certificate.read_bytes(), key.read_bytes()) == known:
                return None
            known = _read(certificate, key)
        except (OSError, ValueError):
            return None
        return _configuration(known)

    return grpc.dynamic_ssl_server_credentials(_configuration(known), fetch)  # type: ignore[arg-type]


def _read(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
        pair = certificate.read_bytes(), key.read_bytes()
    except OSError as error:
        raise ValueError(f"tls-cert, tls-key: {certificate}, {key}: {error}") from None
    expires = x509.load_pem_x509_certificate(pair[0]).not_valid_after_utc
    if expires < datetime.now(UTC):
        raise ValueError(f"tls-cert: {certificate} expired on {expires:%Y-%m-%d}: renew it")
    return pair


def _configuration(pair: tuple[bytes, bytes]) -> grpc.ServerCertificateConfiguration:
    certificate, key = pair
    return grpc.ssl_server_certificate_configuration([(key, certificate)])
