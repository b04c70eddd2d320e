"""What runs where a spec names nothing: the default command, the web terminal, and the environment of both."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path


def serve_home(port: int) -> tuple[str, ...]:
    """Serves the working directory over HTTP on a loopback port.

    It is the interpreter itself, not that of a virtual environment, which bubblewrap hides.
    """
    python = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")
    return (python, "-I", "-m", "http.server", "--bind", "127.0.0.1", str(port))


def terminal(setting: str) -> tuple[str, ...]:
    """The command line of the terminal program, `{port}` in it for its port; empty for none.

    `setting`: such a command line, `auto` for ttyd if it is on the PATH, or empty.
    """
    if setting != "auto":
        return tuple(setting.split())
    found = shutil.which("ttyd")
    return (found, "--port", "{port}", "--interface", "127.0.0.1", "--writable", "sh") if found else ()


def environment(env: Mapping[str, str], home: str, port: int) -> dict[str, str]:
    """`env` among what every program expects. `port` is where the application is to listen."""
    usual = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "USER": "agent", "TERM": "xterm"}
    return usual | dict(env) | {"HOME": home, "PORT": str(port)}
