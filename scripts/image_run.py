"""Runs what the image runs as the image's user, with files as a Secret volume has them."""

import os
import shlex
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODES = (0o644, 0o440, 0o640)
"""What the files of a Secret volume have by default, and with an fsGroup and the usual narrower defaultModes."""


def secret_volume(folder: Path, content: Mapping[str, bytes], mode: int, user: str) -> Path:
    """Makes a folder as the kubelet does: root's files of `mode`, of the group of `user`, behind two symbolic links."""
    data = folder / "..2026_01_02_03_04_05.678901234"
    data.mkdir(parents=True)
    for name, value in content.items():
        (data / name).write_bytes(value)
        (data / name).chmod(mode)
        (folder / name).symlink_to(f"..data/{name}")
        if os.geteuid() == 0:
            os.chown(data / name, 0, int(user.partition(":")[2]))
    (folder / "..data").symlink_to(data.name)
    for one in (folder, data):
        one.chmod(0o755)
    return folder


def command(user: str) -> list[str]:
    """What a command line begins with that is to run as `user`, such as 1001:1001; empty where only root could do so.

    An interpreter in a home directory that other users may not enter is mounted where they find it.
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
    script = "; ".join(["set -e", *opened, *hidden, *mounted, f'{change} -- "$@"'])
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
