"""What the workers of a run of pytest share: the first that needs it makes it."""

import fcntl
import os
import uuid
from collections.abc import Callable
from pathlib import Path

RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid.uuid4().hex)


def once(mark: Path, make: Callable[[], object]) -> None:
    """Calls `make`, unless that has been done in this run; `mark` is the file that says so.

    Of several workers, one calls it and the others wait. Where it fails, the next one tries again.
    """
    mark.parent.mkdir(parents=True, exist_ok=True)
    with mark.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if file.read() != RUN:
            make()
            file.truncate(0)
            file.write(RUN)
