"""A real Kubernetes control plane on loopback: etcd, API server, controllers, scheduler, one process each.

`python -m tests.kubernetes.cluster [KUBECONFIG]` keeps one, with a simulated node, until Ctrl-C.
"""

import asyncio
import base64
import contextlib
import datetime
import ipaddress
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HERE = Path(__file__).parent
ADMIN = "admin-token-for-tests"
READY_WITHIN = 60.0
STORAGE_CLASS = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": "kubernetes.io/host-path",
    "reclaimPolicy": "Delete",
    "volumeBindingMode": "Immediate",
}


def build() -> Path:
    """The binary, built when needed. Raises RuntimeError with what is missing."""
    built = subprocess.run([HERE / "controlplane" / "build.sh"], capture_output=True, text=True)
    if built.returncode:
        raise RuntimeError(f"the control plane cannot be built: {built.stderr.strip()[-2000:]}")
    return Path(built.stdout.strip())


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


class Cluster:
    """Components are started, paused and killed by name; everything lies in one temporary folder."""

    def __init__(self, *, api_server: tuple[str, ...] = ()) -> None:
        """`api_server`: further flags of the API server."""
        self.binary = build()
        self.folder = Path(tempfile.mkdtemp(prefix="controlplane-"))
        self.tokens: dict[str, str] = {ADMIN: "admin"}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._etcd, self._peer, self._port = free_port(), free_port(), free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        self.ca = self.folder / "ca.crt"
        self.audit = self.folder / "audit.log"
        self._flags = api_server

    def start(self) -> None:
        """Starts everything and returns when the API server is ready."""
        try:
            self._write_files()
            for name in ("etcd", "kube-apiserver"):
                self.run(name)
            self.wait()
            self.request("POST", "/apis/storage.k8s.io/v1/storageclasses", STORAGE_CLASS)
            for name in ("kube-controller-manager", "kube-scheduler"):
                self.run(name)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends every component by its pid and removes the folder."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, name: str) -> None:
        """Starts one component, on the port that it had before."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [self.binary, name, *self._arguments(name)], stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, name: str) -> None:
        """Kills one component."""
        self._processes[name].kill()
        self._processes[name].wait()

    def pause(self, name: str) -> None:
        self._processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self._processes[name].send_signal(signal.SIGCONT)

    def wait(self) -> None:
        """Returns when the API server is ready. Raises RuntimeError with the end of its log."""
        end = time.monotonic() + READY_WITHIN
        while time.monotonic() < end:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended: {self.log(name)}")
            with contextlib.suppress(OSError, urllib.error.HTTPError):
                self.request("GET", "/readyz")
                return
            time.sleep(0.05)
        raise RuntimeError(f"the API server is not ready: {self.log('kube-apiserver')}")

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()[-3000:]

    def request(self, method: str, path: str, body: Any = None, *, kind: str = "application/json") -> Any:
        """One call as the administrator. Raises urllib's HTTPError."""
        context = ssl.create_default_context(cafile=str(self.ca))
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        request.add_header("Authorization", f"Bearer {ADMIN}")
        request.add_header("Content-Type", kind)
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text[:1] == b"{" else text.decode()

    def kubeconfig(self, path: Path, token: str) -> Path:
        """Writes a kubeconfig for the owner of a token."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [
                {"name": "test", "cluster": {"server": self.url, "certificate-authority-data": _base64(self.ca)}}
            ],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path.write_text(json.dumps(config))
        return path

    def _write_files(self) -> None:
        authority = _key()
        ca = _certificate("test-ca", authority, None, None)
        self._pem("ca", authority, ca)
        server = _key()
        self._pem("server", server, _certificate("kube-apiserver", server, authority, ca))
        self._pem("account", _key(), None)
        users = [f'{ADMIN},admin,admin,"system:masters"', 'service-token-for-tests,sandbox-service,sandbox-service,""']
        users += ['node-token-for-tests,simulated-node,simulated-node,"system:masters"']
        (self.folder / "tokens.csv").write_text("\n".join(users) + "\n")
        self.kubeconfig(self.folder / "admin.json", ADMIN)
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived", "ResponseStarted", "Panic"],
            "rules": [{"level": "Metadata", "users": ["sandbox-service"]}, {"level": "None"}],
        }
        (self.folder / "audit.json").write_text(json.dumps(policy))

    def _pem(self, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate | None) -> None:
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        (self.folder / f"{name}.key").write_bytes(private)
        if certificate is not None:
            (self.folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _arguments(self, name: str) -> list[str]:
        folder, admin = self.folder, f"--kubeconfig={self.folder / 'admin.json'}"
        etcd = f"http://127.0.0.1:{self._etcd}"
        match name:
            case "etcd":
                return [str(folder / "etcd"), etcd, f"http://127.0.0.1:{self._peer}"]
            case "kube-apiserver":
                return [
                    f"--etcd-servers={etcd}",
                    "--bind-address=127.0.0.1",
                    f"--secure-port={self._port}",
                    f"--tls-cert-file={folder / 'server.crt'}",
                    f"--tls-private-key-file={folder / 'server.key'}",
                    f"--client-ca-file={folder / 'ca.crt'}",
                    f"--token-auth-file={folder / 'tokens.csv'}",
                    "--authorization-mode=Node,RBAC",
                    "--anonymous-auth=false",
                    "--service-account-issuer=https://kubernetes.default.svc",
                    f"--service-account-key-file={folder / 'account.key'}",
                    f"--service-account-signing-key-file={folder / 'account.key'}",
                    "--service-cluster-ip-range=10.96.0.0/16",
                    "--endpoint-reconciler-type=none",
                    f"--cert-dir={folder / 'certs'}",
                    f"--audit-policy-file={folder / 'audit.json'}",
                    f"--audit-log-path={self.audit}",
                    *self._flags,
                ]
            case "kube-controller-manager":
                return [
                    admin,
                    f"--service-account-private-key-file={folder / 'account.key'}",
                    f"--root-ca-file={folder / 'ca.crt'}",
                    "--controllers=*",
                    "--enable-hostpath-provisioner=true",
                    "--node-monitor-grace-period=8s",
                    "--node-monitor-period=1s",
                    "--kube-api-qps=500",
                    "--kube-api-burst=1000",
                    "--concurrent-statefulset-syncs=20",
                    "--pvclaimbinder-sync-period=1s",
                    "--leader-elect=false",
                    "--secure-port=0",
                    "--use-service-account-credentials=false",
                    f"--cert-dir={folder / 'certs'}",
                ]
            case "kube-scheduler":
                return [admin, "--leader-elect=false", "--secure-port=0", f"--cert-dir={folder / 'certs'}"]
        raise ValueError(name)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: ec.EllipticCurvePrivateKey | None,
    authority: x509.Certificate | None,
) -> x509.Certificate:
    """Signed by `issuer`, or an authority itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signer = issuer or key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if authority is None:
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    else:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


async def _keep(kubeconfig: Path) -> None:
    from tests.kubernetes.node import Node

    cluster = Cluster()
    ended = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, ended.set)
    cluster.start()
    try:
        async with Node(cluster):
            kubeconfig.parent.mkdir(parents=True, exist_ok=True)
            cluster.kubeconfig(kubeconfig, ADMIN)
            print(f"export KUBECONFIG={kubeconfig.absolute()}")
            print(f"kubectl: {cluster.binary} kubectl get pods")
            print(f"service: make run ENGINE=kubernetes FLAGS='--kubeconfig {kubeconfig}'")
            sys.stdout.flush()
            await ended.wait()
    finally:
        cluster.stop()


if __name__ == "__main__":
    asyncio.run(_keep(Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("KUBECONFIG", ".data/kubeconfig"))))
