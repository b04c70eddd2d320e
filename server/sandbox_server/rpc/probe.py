"""The health check that a container runs against the service beside it."""

import codecs
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sandbox_server import files
from sandbox_server.rpc import public

ANSWER = 3.0
"""Seconds to wait for an answer, less than Docker and Kubernetes give a health check."""

WILDCARDS = ("0.0.0.0", "[::]")  # noqa: S104


def ask(listen: str, certificate: Path | None) -> tuple[str, str]:
    """Returns the health of the service at `listen`, such as SERVING, and its version.

    If the call fails, returns the name of its status code and an empty version. With `certificate` the call uses TLS
    and trusts that certificate under any of its names, since none of them needs to be the address that the probe
    connects to. Raises OSError or ValueError for a certificate that cannot be read.
    """
    host, _, port = listen.rpartition(":")
    address = f"127.0.0.1:{port}" if host in WILDCARDS else listen
    options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0)]
    channel = grpc.insecure_channel(address, options)
    if certificate is not None:
        pem = files.read("tls-cert", certificate).removeprefix(codecs.BOM_UTF8)
        options += [("grpc.ssl_target_name_override", name) for name in _names(pem)[:1]]
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(pem), options)
    with channel:
        try:
            check = health_pb2_grpc.HealthStub(channel).Check
            answer, call = check.with_call(health_pb2.HealthCheckRequest(), timeout=ANSWER)
        except grpc.RpcError as error:
            return str(error.code().name), ""
    metadata = dict(call.trailing_metadata() or ())
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)), metadata.get(public.VERSION_KEY, "")


def _names(pem: bytes) -> list[str]:
    """Returns the names that a certificate is valid for: its alternative names, or else its common name.

    In a name with a wildcard, a word replaces the wildcard.
    """
    certificate = x509.load_pem_x509_certificate(pem)
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return [str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    hosts = [name.replace("*", "probe") for name in found.value.get_values_for_type(x509.DNSName)]
    return hosts + [str(address) for address in found.value.get_values_for_type(x509.IPAddress)]
