"""What runs in a sandbox, and how its process is started."""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.local import isolation
from sandbox_server.settings import Settings

_PYTHON = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
_SERVE = (_PYTHON, "-I", "-m", "http.server", "--bind", "127.0.0.1", "{port}")
"""The interpreter itself, not that of a virtual environment, which bubblewrap hides."""

_BESIDE = '(while :; do {terminal}; sleep 5; done &); exec "$@"'
"""The terminal program runs again whenever it ends, as no child of the command, which may wait for all it has."""


def terminal(settings: Settings) -> list[str]:
    """The command line of the terminal program, `{port}` in it for its port; empty for none."""
    if settings.local_terminal != "auto":
        return settings.local_terminal.split()
    found = shutil.which("ttyd")
    return [found, "--port", "{port}", "--interface", "127.0.0.1", "--writable", "sh"] if found else []


def launch(sandbox: Sandbox, env: Mapping[str, str], home: Path, settings: Settings) -> isolation.Launch:
    """What starts the process of a sandbox, which is to listen on PORT, and its terminal beside it.

    A sandbox that was made where there was no terminal program has no port for one.
    """
    spec, (port, *more) = sandbox.spec, sandbox.addresses.ports
    usually = shlex.split(settings.local_command) or _at(port, _SERVE)
    command = [*spec.command, *spec.args] if spec.command else usually
    if more and (words := terminal(settings)):
        command = ["/bin/sh", "-c", _BESIDE.format(terminal=shlex.join(_at(more[0], words))), "sh", *command]
    usual = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "USER": "agent", "TERM": "xterm"}
    whole = {**usual, **env, "PORT": str(port)}
    if settings.local_isolation == "auto" and isolation.program():
        return isolation.isolated(command, whole, home, hide=settings.data_dir)
    return isolation.plain(command, whole, home)


def _at(port: int, words: Sequence[str]) -> list[str]:
    return [word.replace("{port}", str(port)) for word in words]
