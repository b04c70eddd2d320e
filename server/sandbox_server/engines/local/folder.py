"""The folder of a sandbox under the data directory. Nothing here follows a link that a sandbox may have made."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from sandbox_server import engines, failpoints
from sandbox_server.domain import ownership
from sandbox_server.domain.observed import Fault
from sandbox_server.domain.phase import Reason
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.engines.local.disk import Disk, remove


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Raises `engines.Refused` for an OSError, so that the status of the sandbox shows it."""
    try:
        yield
    except OSError as error:
        raise engines.Refused(Fault(Reason.ENGINE_REFUSED, words(error))) from error


def words(error: OSError) -> str:
    """Returns what a status says of an error."""
    # A sandbox can give a file a name that is not UTF-8, and a status is text.
    name = os.fsencode(error.filename or "").decode(errors="replace")
    return f"{name}: {error.strerror}"


class Folder:
    """`<data>/sandboxes/<namespace>/<id>/`, with the disk in `volume/home`. The names of the process's files begin `main`."""

    def __init__(self, root: Path, key: Key) -> None:
        """`root` is the data directory."""
        self.path = root / "sandboxes" / key.namespace / key.id
        self.process = self.path / "main"
        self.log = self.path / "main.log"
        self.disk = Disk(root, self.path)
        self.home = self.disk.home

    @property
    def has_volume(self) -> bool:
        """Whether the disk exists and is no link."""
        return self.disk.is_there

    def label(self) -> dict[str, str]:
        """Returns `owner` and `uid` of the volume, even if its home is gone. Empty if there is no label."""
        return self.disk.label()

    def awaits_copy(self, sandbox: Sandbox) -> bool:
        """Whether the volume is to be a copy, which is yet to be made."""
        return sandbox.origin is not None and not sandbox.volume_uid and not self.has_volume

    @_refusing()
    def prepare(self, sandbox: Sandbox, replicas: int) -> bool:
        """Creates the folder and, before the first start, the volume. Raises `engines.Refused`.

        Returns False where the volume is to be a copy, which is yet to be made.
        """
        self.disk.make_folder()
        failpoints.hit("local_folder_made")
        if replicas == 0 or sandbox.volume_uid or self.has_volume:
            return True
        if self.disk.volume.exists() and self._owns_volume(sandbox):
            # What is left of a lost disk, which the caller has given up.
            remove(self.disk.volume, self.path)
        if self.awaits_copy(sandbox):
            return False
        self.disk.make(new_label(sandbox))
        return True

    @_refusing()
    def clear(self, sandbox: Sandbox) -> None:
        """Removes the folder, without the volume if the sandbox keeps it. A folder with a foreign volume stays.

        Raises `engines.Refused`. Call it again then: what is left can be removed later.
        """
        self.disk.check_links(self.path)
        if not self.path.exists() or not self._owns_volume(sandbox):
            return
        for entry in list(self.path.iterdir()):
            if entry != self.disk.volume or not sandbox.keep_volume:
                remove(entry, self.path)
                failpoints.hit("local_entry_removed")
        if not any(self.path.iterdir()):
            self.path.rmdir()
            failpoints.hit("local_folder_removed")

    def _owns_volume(self, sandbox: Sandbox) -> bool:
        """Whether the volume belongs to the sandbox. A missing volume, or its own that lost its label, does too."""
        label = self.label()
        if label:
            return ownership.owns_volume(sandbox, label["owner"], label["uid"])
        return sandbox.volume_uid != "" or not os.path.lexists(self.disk.volume)


def new_label(sandbox: Sandbox) -> dict[str, str]:
    """Returns the label of a fresh volume of a sandbox."""
    return {"owner": sandbox.uid, "uid": str(uuid.uuid4())}
