"""A real Kubernetes control plane on loopback: etcd, API server, controllers, scheduler, one process each."""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp

from tests.kubernetes import builds, pki
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE

HERE = Path(__file__).parent
ADMIN = "admin-token-for-tests"
READY_WITHIN = 60.0 * PATIENCE
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
"""In the order in which they start; the last two need the API server to be ready."""
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
    return builds.built(HERE / "controlplane" / "build.sh", "the control plane")


API = "kube-apiserver"


class Cluster:
    """Components are started, paused and killed by name; everything lies in one temporary folder."""

    def __init__(self) -> None:
        self.binary = build()
        self.folder = Path(tempfile.mkdtemp(prefix="controlplane-"))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._changing = threading.RLock()
        self._stopped = threading.Event()
        self._keeping = threading.Thread(target=self._keep, daemon=True)
        # A component ends with its standard input, and so with this process, which alone holds the other end.
        self._input, self._held = os.pipe()
        self._etcd, self._peer, self._port = free_port(), free_port(), free_port()
        self.kubelet_port = free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        self.ca = self.folder / "ca.crt"
        self.audit = self.folder / "audit.log"
        self._audited = 0
        self._calls: dict[str, list[dict[str, Any]]] = {}

    def start(self) -> None:
        """Starts everything and returns when the API server is ready."""
        try:
            self._write_files()
            for name in COMPONENTS[:2]:
                self.run(name)
            self.wait()
            self.request("POST", "/apis/storage.k8s.io/v1/storageclasses", STORAGE_CLASS)
            for name in COMPONENTS[2:]:
                self.run(name)
            self._keeping.start()
        except BaseException:
            self.stop()
            raise

    def _keep(self) -> None:
        """Starts a controller or scheduler again that has ended itself, as a kubelet does.

        The scheduler ends itself when its cache is not that of the API server.
        """
        while not self._stopped.wait(0.5):
            with self._changing:
                for name, process in list(self._processes.items()):
                    if name in COMPONENTS[2:] and process.poll() is not None:
                        print(f"{name} has ended and is started again: {self.log(name)[-500:]}")
                        self.run(name)

    def stop(self) -> None:
        """Ends every component by its pid and removes the folder."""
        self._stopped.set()
        if self._keeping.is_alive():
            self._keeping.join()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        os.close(self._input)
        os.close(self._held)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, name: str, *flags: str) -> None:
        """Starts one component, on the port that it had before."""
        with self._changing, (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [self.binary, name, *self._arguments(name), *flags],
                stdin=self._input,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """Kills one component."""
        with self._changing:
            process = self._processes.pop(name)
        process.kill()
        process.wait()

    def pause(self, name: str) -> None:
        self._processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self._processes[name].send_signal(signal.SIGCONT)

    def backup(self) -> Path:
        """A copy of etcd's data, for which etcd stops for a moment."""
        copy = self.folder / "backup"
        self.kill("etcd")
        shutil.copytree(self.folder / "etcd", copy)
        self.run("etcd")
        self.wait()
        return copy

    def restore(self, copy: Path) -> None:
        """Puts a copy of etcd's data back while nothing runs, and starts everything anew."""
        for name in reversed(COMPONENTS):
            self.kill(name)
        shutil.rmtree(self.folder / "etcd")
        shutil.copytree(copy, self.folder / "etcd")
        for name in COMPONENTS[:2]:
            self.run(name)
        self.wait()
        for name in COMPONENTS[2:]:
            self.run(name)

    def wait(self) -> None:
        """Returns when the API server is ready. Raises RuntimeError with the end of its log."""
        end = time.monotonic() + READY_WITHIN
        while time.monotonic() < end:
            for name, process in list(self._processes.items()):
                if process.poll() is not None and name in COMPONENTS[:2]:
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

    def audited(self, namespace: str) -> list[dict[str, Any]]:
        """Every call that the service has made in a namespace, as the API server's audit log has it."""
        with self.audit.open() as log:
            log.seek(self._audited)
            while (line := log.readline()).endswith("\n"):
                self._audited = log.tell()
                call = json.loads(line)
                self._calls.setdefault(call.get("objectRef", {}).get("namespace", ""), []).append(call)
        return self._calls.get(namespace, [])

    def session(self, token: str) -> aiohttp.ClientSession:
        """Connections of the owner of a token."""
        context = ssl.create_default_context(cafile=str(self.ca))
        return aiohttp.ClientSession(
            base_url=self.url,
            connector=aiohttp.TCPConnector(ssl=context, limit=64),
            headers={"Authorization": f"Bearer {token}"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
        )

    def kubeconfig(self, path: Path, token: str, url: str = "") -> Path:
        """Writes a kubeconfig for the owner of a token. `url`: of what stands before the API server."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [
                {"name": "test", "cluster": {"server": url or self.url, "certificate-authority-data": _base64(self.ca)}}
            ],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path.write_text(json.dumps(config))
        return path

    def _write_files(self) -> None:
        authority = pki.authority("test-ca")
        authority.write(self.folder, "ca")
        pki.server("kube-apiserver", authority).write(self.folder, "server")
        pki.server("kubelet", authority).write(self.folder, "kubelet")
        pki.server("kube-apiserver-kubelet-client", authority).write(self.folder, "kubelet-client")
        pki.write_key(pki.key(), self.folder / "account.key")
        users = [f'{ADMIN},admin,admin,"system:masters"', 'service-token-for-tests,sandbox-service,sandbox-service,""']
        users += ['node-token-for-tests,simulated-node,simulated-node,"system:masters"']
        (self.folder / "tokens.csv").write_text("\n".join(users) + "\n")
        self.kubeconfig(self.folder / "admin.json", ADMIN)
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived", "ResponseStarted", "Panic"],
            # As an operator may have it who wants to know what is done in pods. Secrets are for no log.
            "rules": [
                {
                    "level": "RequestResponse",
                    "users": ["sandbox-service"],
                    "resources": [{"group": "", "resources": ["pods", "pods/*"]}],
                },
                {"level": "Metadata", "users": ["sandbox-service"]},
                {"level": "None"},
            ],
        }
        (self.folder / "audit.json").write_text(json.dumps(policy))

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
                    f"--kubelet-certificate-authority={folder / 'ca.crt'}",
                    f"--kubelet-client-certificate={folder / 'kubelet-client.crt'}",
                    f"--kubelet-client-key={folder / 'kubelet-client.key'}",
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
            case "kubelet":
                # All are the caller's.
                return []
            case "kube-scheduler":
                return [admin, "--leader-elect=false", "--secure-port=0", f"--cert-dir={folder / 'certs'}"]
        raise ValueError(name)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


async def back(cluster: Cluster, *flags: str) -> None:
    """The API server, started again."""
    cluster.run(API, *flags)
    await asyncio.to_thread(cluster.wait)
