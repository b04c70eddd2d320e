"""Certificates and keys of every kind that an operator may give: served so that the health check passes, or refused."""

import codecs
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from sandbox_server.domain.pace import Pace
from sandbox_server.rpc import probe, tls

from tests.support.certificates import certificate

NAME = "sandboxes.example"


@contextmanager
def served(chain: Path, key: Path) -> Iterator[str]:
    """The address of a server with these files, which says that it is SERVING."""
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_secure_port("127.0.0.1:0", tls.credentials(chain, key, Pace()))
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.mark.find(42)
@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "RSA"],
)
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8, b"# words \xc3\xa9\r\n"])
def test_files_that_are_taken_are_served(key: Any, mark: bytes, tmp_path: Path) -> None:
    pair = certificate(tmp_path, "good", key=key)
    for file in pair:
        file.write_bytes(mark + file.read_bytes().replace(b"\n", b"\r\n"))
    with served(*pair) as address:
        assert probe.ask(address, pair[0])[0] == "SERVING"


@pytest.mark.find(46)
@pytest.mark.parametrize("name", [None, x509.DNSName(f"*.{NAME}"), x509.DNSName("other.example")])
def test_the_health_check_finds_the_name_of_every_certificate(name: x509.GeneralName | None, tmp_path: Path) -> None:
    pair = certificate(tmp_path, NAME, served=name)
    with served(*pair) as address:
        assert probe.ask(address, pair[0])[0] == "SERVING"


@pytest.mark.find(42)
@pytest.mark.parametrize(
    "generate",
    [
        lambda: ec.generate_private_key(ec.SECP521R1()),
        lambda: ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate,
        ed448.Ed448PrivateKey.generate,
        lambda: dsa.generate_private_key(2048),
    ],
    ids=["P-521", "secp256k1", "Ed25519", "Ed448", "DSA"],
)
def test_a_key_that_no_client_of_grpc_takes_is_refused_by_its_kind(generate: Callable[[], Any], tmp_path: Path) -> None:
    pair = certificate(tmp_path, "other", key=generate())
    with pytest.raises(ValueError, match="has a key that gRPC does not take: use RSA, or EC on P-256 or P-384"):
        tls.credentials(*pair, Pace())
