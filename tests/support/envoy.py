"""Envoy as a process, with the configuration of examples/web."""

import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support.ports import free_port
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]


def tls(context: str, **replaced: str) -> dict[str, Any]:
    """Returns a transport socket as docs/web.md has it, `Downstream` or `Upstream`, with its examples replaced."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "web.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if f"{context}TlsContext" in block)
    for example, value in replaced.items():
        assert example in block
        block = block.replace(example, value)
    return dict(yaml.safe_load(block))


class Envoy:
    """A proxy to a port of this machine. `start` may be called again after `kill`: same port, same configuration."""

    def __init__(self, folder: Path, program: Path, page: Path, upstream: int) -> None:
        self.port = free_port()
        self.origin = f"http://localhost:{self.port}"
        self.configuration = yaml.safe_load((page / "envoy.yaml").read_text())
        self._folder = folder
        self._program = program
        self._page = page
        self._process: subprocess.Popen[bytes] | None = None
        resources = self.configuration["static_resources"]
        (self.listener,), (self.cluster,) = resources["listeners"], resources["clusters"]
        self.listener["address"]["socket_address"]["port_value"] = self.port
        (chain,) = self.listener["filter_chains"]
        self.chain: dict[str, Any] = chain
        (locality,) = self.cluster["load_assignment"]["endpoints"]
        (endpoint,) = locality["lb_endpoints"]
        self._address: dict[str, Any] = endpoint["endpoint"]["address"]["socket_address"]
        self._address["port_value"] = upstream
        (manager,) = chain["filters"]
        (host,) = manager["typed_config"]["route_config"]["virtual_hosts"]
        self._cors: dict[str, Any] = host["typed_per_filter_config"]["envoy.filters.http.cors"]

    def allow(self, origin: str) -> None:
        self._cors["allow_origin_string_match"] = [{"exact": origin}]

    def secure(self, downstream: dict[str, Any], upstream: dict[str, Any], name: str) -> None:
        """Has TLS on both sides, with a service that is reached by name."""
        self.origin = f"https://localhost:{self.port}"
        self.chain.update(downstream)
        self.cluster.update(upstream)
        self._address["address"] = name

    def start(self) -> "Envoy":
        file = self._folder / "envoy.yaml"
        file.write_text(yaml.safe_dump(self.configuration))
        words = [str(self._program), "-c", str(file), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
        with (self._folder / "envoy.log").open("ab") as log:
            self._process = subprocess.Popen(words, cwd=self._page, stdout=log, stderr=log)
        eventually(self._listens, within=20)
        return self

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "envoy.log").read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
