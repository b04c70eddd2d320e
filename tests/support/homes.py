"""A home with all that a home may have."""

import os
import stat
from pathlib import Path
from typing import Any


def fill(home: Path) -> None:
    """All that a home may have."""
    (home / "empty folder").mkdir(mode=0o700)
    (home / "deep/er").mkdir(parents=True)
    (home / "deep/er/-n file").write_text("a")
    os.link(home / "deep/er/-n file", home / "other name")
    (home / "link").symlink_to("deep/er")
    (home / "dangling").symlink_to("/no/such place")
    Path(os.fsdecode(os.fsencode(home) + b"/line\nbreak \xff\\n")).write_bytes(b"\0\xff")
    (home / "run").write_text("#!/bin/sh\n")
    (home / "run").chmod(0o6755)
    (home / "closed").write_text("s")
    (home / "closed").chmod(0)
    (home / ("n" * 255)).write_text("long")
    with (home / "sparse").open("wb") as sparse:
        sparse.seek(8 << 20)
        sparse.write(b"end")
    os.mkfifo(home / "fifo")
    (home / "big").write_bytes(os.urandom(3 << 20))
    os.utime(home / "big", (1, 1_000_000_001))
    os.utime(home / "deep", (1, 1_000_000_002))
    os.chown(home / "run", 1001, 1002)
    os.utime(home, (1, 1_000_000_003))


def snapshot(home: Path) -> dict[bytes, Any]:
    """What a home has, with its attributes. Fractions of seconds are left out."""
    found: dict[bytes, Any] = {}
    places: dict[int, list[bytes]] = {}
    for path in (home, *home.rglob("*")):
        name, at = os.fsencode(path.relative_to(home)), path.lstat()
        content: Any = b""
        if stat.S_ISREG(at.st_mode):
            content = path.read_bytes()
            places.setdefault(at.st_ino, []).append(name)
        elif stat.S_ISLNK(at.st_mode):
            content = os.fsencode(path.readlink())
        found[name] = (at.st_mode, at.st_uid, at.st_gid, int(at.st_mtime), content)
    return {**found, b"/linked": sorted(sorted(names) for names in places.values())}
