"""Files that the operator gives: encryption keys, tokens, TLS.

Their modes are the operator's business. A Secret volume has root's files of mode 0644, or of 0440 with a group of the pod,
and whoever runs as another user reads them by those very bits.
"""

import os
from pathlib import Path


def read(name: str, path: Path) -> bytes:
    """The content of the file that is called `name`. Raises ValueError that says what to do."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{name} {path}: {error.strerror or error}{_access(error, path)}") from None


def _access(error: OSError, path: Path) -> str:
    """What keeps this process out of a file that is there."""
    if not isinstance(error, PermissionError):
        return ""
    who = f": the service runs as user {os.geteuid()}, group {os.getegid()}"
    try:
        found = path.stat()
    except OSError:
        return f"{who}, which may not enter the folder"
    of = f"the file is of user {found.st_uid}, group {found.st_gid}, mode {found.st_mode & 0o7777:04o}"
    return f"{who}; {of}. Let it read the file: in a pod, set fsGroup and a defaultMode of 0440"
