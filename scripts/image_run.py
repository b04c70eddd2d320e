"""Runs the command of the image as the user of the image, with files like those of a Secret volume."""

import os
import shlex
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODES = (0o644, 0o440, 0o640)
"""Modes of the files of a Secret volume: the default, and those with an fsGroup and a usual narrower defaultMode."""


def secret_volume(folder: Path, content: Mapping[str, bytes], mode: int, user: str) -> Path:
    """Creates a folder as the kubelet does: files of root and of the group of `user`, behind two symbolic links."""
    data = folder / "..2026_01_02_03_04_05.678901234"
    data.mkdir(parents=True)
    for name, value in content.items():
        (data / name).write_bytes(value)
        (data / name).chmod(mode)
        (folder / name).symlink_to(f"..data/{name}")
        if os.geteuid() == 0:
            os.chown(data / name, 0, int(user.partition(":")[2]))
    (folder / "..data").symlink_to(data.name)
    for directory in (folder, data):
        directory.chmod(0o755)
    return folder


def command(user: str, volumes: Mapping[str, Path] | None = None) -> list[str]:
    """Returns the words before a command that run it as `user`, such as 1001:1001. Empty if this process is not root.

    If the interpreter or the repository is in a directory that other users may not enter, it is mounted over it. With
    `volumes`, folders by the paths below /run where they are mounted, every file outside of the folder for temporary files
    is read-only, as with `readOnlyRootFilesystem`.
    """
    if os.geteuid() != 0:
        return []
    number, _, group = user.partition(":")
    change = f"exec setpriv --reuid {number} --regid {group} --clear-groups"
    places = {
        place: closed[0]
        for place in (Path(sys.base_prefix), ROOT)
        if (closed := [one for one in reversed(place.parents) if not one.stat().st_mode & stat.S_IXOTH])
    }
    # Opened before they are hidden, and mounted from there.
    opened = [f"exec {fd}<{shlex.quote(str(place))}" for fd, place in enumerate(places, 3)]
    hidden = [f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(one))}" for one in sorted(set(places.values()))]
    mounted = [
        f"mkdir -p {name}; mount --no-canonicalize --bind /proc/self/fd/{fd} {name}; exec {fd}<&-"
        for fd, name in enumerate(map(shlex.quote, map(str, places)), 3)
    ]
    script = "; ".join(["set -e", *opened, *hidden, *mounted, *_as_in_a_pod(volumes), f'{change} -- "$@"'])
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]


def _as_in_a_pod(volumes: Mapping[str, Path] | None) -> list[str]:
    """Returns commands that mount the volumes and make all else read-only."""
    if volumes is None:
        return []
    temporary = shlex.quote(tempfile.gettempdir())
    commands = ["mount -t tmpfs -o mode=755 tmpfs /run"]
    for target, folder in volumes.items():
        commands.append(
            f"mkdir -p {shlex.quote(target)}; mount --bind {shlex.quote(str(folder))} {shlex.quote(target)}"
        )
    return [*commands, f"mount --bind {temporary} {temporary}", "mount -o remount,bind,ro /"]
