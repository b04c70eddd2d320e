"""The local engine's settings, and what follows from them: how the process of a sandbox is started."""

import dataclasses
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.spec import Readiness, SandboxSpec
from sandbox_server.engines.local import isolation

_PYTHON = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
_SERVE = (_PYTHON, "-I", "-m", "http.server", "--bind", "127.0.0.1", "{port}")
"""The interpreter itself, not that of a virtual environment, which bubblewrap hides."""

_BESIDE = '(while :; do {terminal}; sleep 5; done &); exec "$@"'
"""The terminal program runs again whenever it ends, as no child of the command, which may wait for all it has."""


@dataclass(frozen=True, slots=True)
class Config:
    """`command` runs in a sandbox that names none (empty: serve its home over HTTP); `terminal` is a command line with
    `{port}` in it, `auto` for ttyd if it is on the PATH, or empty for none.
    """

    data_dir: Path
    command: tuple[str, ...] = ()
    terminal: str = "auto"
    ports: range = range(20000, 30000)
    isolate: bool = True

    @property
    def terminal_words(self) -> list[str]:
        """The command line of the terminal program, `{port}` in it for its port; empty for none."""
        if self.terminal != "auto":
            return self.terminal.split()
        found = shutil.which("ttyd")
        return [found, "--port", "{port}", "--interface", "127.0.0.1", "--writable", "sh"] if found else []

    def expected(self, spec: SandboxSpec) -> SandboxSpec:
        """`spec` with what has to answer where it names nothing: the web server that runs in want of a command."""
        if spec.command or self.command or spec.readiness != Readiness():
            return spec
        return dataclasses.replace(spec, readiness=Readiness(tcp_port=spec.ports[0].number))

    def launch(self, sandbox: Sandbox, env: Mapping[str, str], home: Path) -> isolation.Launch:
        """What starts the process of a sandbox, which is to listen on PORT, and its terminal beside it.

        A sandbox that was made where there was no terminal program has no port for one.
        """
        spec, (port, *more) = sandbox.spec, sandbox.addresses.ports
        command = [*spec.command, *spec.args] if spec.command else list(self.command) or _at(port, _SERVE)
        if more and (words := self.terminal_words):
            command = ["/bin/sh", "-c", _BESIDE.format(terminal=shlex.join(_at(more[0], words))), "sh", *command]
        usual = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "USER": "agent", "TERM": "xterm"}
        whole = {**usual, **env, "PORT": str(port)}
        if self.isolate and isolation.program():
            return isolation.isolated(command, whole, home, hide=self.data_dir)
        return isolation.plain(command, whole, home)


def _at(port: int, words: Sequence[str]) -> list[str]:
    return [word.replace("{port}", str(port)) for word in words]
