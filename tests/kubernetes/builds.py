"""The binaries that these tests need, each built once."""

import fcntl
import subprocess
from pathlib import Path


def built(script: Path, name: str) -> Path:
    """Returns the binary that a script builds when needed. Raises RuntimeError with what is missing.

    Of several workers that need it at once, one builds it and the others wait.
    """
    with script.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run([script], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} cannot be built: {done.stderr.strip()[-2000:]}")
    return Path(done.stdout.strip())
