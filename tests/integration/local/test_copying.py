"""A disk is copied as it is, also while a sandbox changes it, and nothing leads the copy out of it."""

import errno
import os
import socket
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sandbox_server.engines.local.disk import Disk, Gone

DEEP, NAME = 150, "deep" * 10
"""Directories in one another, whose path is longer than PATH_MAX."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path.resolve()


@pytest.fixture
def source(root: Path) -> Disk:
    made = Disk(root, root / "source")
    made.make_folder()
    made.make({"uid": "one"})
    return made


def copied(source: Disk, check: Callable[[], None] = lambda: None) -> Disk:
    made = Disk(source.path.parent, source.path.parent / "copy")
    made.make_from(source, "one", lambda of: {"uid": "two", "used": of.used, "left_out": dict(of.left_out)}, check)
    assert sorted(one.name for one in made.path.iterdir()) == ["volume"]
    assert sorted(one.name for one in made.volume.iterdir()) == ["home", "volume.json"]
    return made


def described(home: Path) -> dict[str, object]:
    """Everything in a home, with what is to be kept of it."""
    found: dict[str, object] = {}
    for path in [home, *home.rglob("*")]:
        status = path.lstat()
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif path.is_symlink():
            content = os.readlink(path)  # noqa: PTH115 - the text, which is no path
        attributes = {} if path.is_symlink() else {name: os.getxattr(path, name) for name in os.listxattr(path)}
        links = status.st_nlink if not stat.S_ISDIR(status.st_mode) else 0
        found[str(path.relative_to(home))] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            links,
            attributes,
            content,
        )
    return found


def test_a_copy_has_everything_that_the_disk_has(source: Disk) -> None:
    home = source.home
    (home / "folder" / "inner").mkdir(parents=True)
    (home / "file").write_bytes(b"content" * 10_000)
    (home / "empty").touch()
    (home / "folder" / "again").hardlink_to(home / "file")
    (home / os.fsdecode(b"not-\xff-utf8")).write_text("named")
    (home / "link").symlink_to("/etc/passwd")
    (home / "dangling").symlink_to("nowhere")
    os.mkfifo(home / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(home / "socket"))
    os.setxattr(home / "file", "user.note", b"kept")
    os.setxattr(home / "folder", "user.note", b"too")
    (home / "file").chmod(0o4751)
    if os.geteuid() == 0:
        os.chown(home / "empty", 1234, 4321)
        os.chown(home / "link", 1234, 4321, follow_symlinks=False)
    os.utime(home / "link", ns=(1, 2), follow_symlinks=False)
    (home / "folder" / "inner").chmod(0o500)
    os.utime(home / "folder", ns=(10**18, 10**18 + 7))
    before = described(home)
    made = copied(source)
    assert described(made.home) == before
    assert (made.home / "file").stat().st_ino == (made.home / "folder" / "again").stat().st_ino
    assert (made.home / "file").stat().st_ino != (home / "file").stat().st_ino
    label = made.label()
    assert label["left_out"] == {}
    assert label["used"] >= 70_000


@pytest.mark.slow
def test_holes_stay_holes(source: Disk) -> None:
    with (source.home / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(64 << 20)
        file.write(b"middle")
        file.truncate(256 << 20)
    made = copied(source)
    status = (made.home / "sparse").stat()
    assert status.st_size == 256 << 20
    assert status.st_blocks * 512 < 1 << 20
    assert (made.home / "sparse").read_bytes()[64 << 20 :][:7] == b"middle\0"


@pytest.mark.parametrize("missing", [errno.EXDEV, errno.EINVAL])
def test_a_file_system_without_a_call_to_copy_gets_the_same_content(
    source: Disk, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    def refused(*_: object) -> int:
        raise OSError(missing, os.strerror(missing))

    monkeypatch.setattr(os, "copy_file_range", refused)
    content = os.urandom(3_000_000)
    (source.home / "file").write_bytes(content)
    assert (copied(source).home / "file").read_bytes() == content


def test_directories_are_copied_deeper_than_a_path_can_be_long(source: Disk) -> None:
    def descend(home: Path, make: bool) -> int:
        fd = os.open(home, os.O_RDONLY)
        for number in range(DEEP):
            if make:
                os.mkdir(NAME, dir_fd=fd)
                os.mkdir("beside", dir_fd=fd)
            inner = os.open(NAME, os.O_RDONLY, dir_fd=fd)
            assert make or number == DEEP - 1 or sorted(os.listdir(inner)) == ["beside", NAME]  # noqa: PTH208 - of a descriptor
            os.close(fd)
            fd = inner
        return fd

    os.close(descend(source.home, make=True))
    made = copied(source)
    os.close(descend(made.home, make=False))
    made.discard()
    assert not made.path.exists()
    source.discard()


@pytest.mark.fault(102)
def test_a_directory_that_is_replaced_by_a_link_leads_nowhere(source: Disk, root: Path) -> None:
    outside = root / "outside"
    (outside / "inner").mkdir(parents=True)
    (outside / "secret").write_text("secret")
    (source.home / "folder" / "inner").mkdir(parents=True)
    (source.home / "folder" / "mine").write_text("mine")
    (source.home / "file").write_text("file")
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        # After the listing of the home, and before its entries are looked at.
        if calls == 1:
            (source.home / "folder").rename(source.home.parent / "away")
            (source.home / "folder").symlink_to(outside)

    made = copied(source, check)
    assert not [path for path in made.path.rglob("*") if path.name == "secret"]
    assert (made.home / "file").read_text() == "file"


@pytest.mark.fault(102)
@pytest.mark.slow
def test_a_copy_of_a_disk_that_changes_all_the_time_ends_and_leaves_nothing_of_others(source: Disk, root: Path) -> None:
    """A program renames directories to links that lead out, up and down, while copies are made."""
    outside = root / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    for number in range(20):
        (source.home / f"{number}" / "a" / "b" / "c").mkdir(parents=True)
        (source.home / f"{number}" / "a" / "file").write_text("x" * number)
    ended = threading.Event()

    def change() -> None:
        turn = 0
        while not ended.is_set():
            turn += 1
            one = source.home / f"{turn % 20}"
            (one / "a").rename(one / "moved")
            (one / "a").symlink_to(outside)
            (one / "moved" / "b").rename(source.home / "up")
            (source.home / "up").rename(one / "moved" / "b")
            (one / "a").unlink()
            (one / "moved").rename(one / "a")
            (one / "a" / "file").unlink()
            (one / "a" / "file").write_text("again")

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(5):
            made = copied(source)
            assert not [path for path in made.path.rglob("secret") if not path.parent.is_symlink()]
            made.discard()
    finally:
        ended.set()
        changing.join()


def test_what_lies_on_another_file_system_is_left_out_and_said(source: Disk) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    (source.home / "mounted").mkdir()
    words = ("mount", "-t", "tmpfs", "none", str(source.home / "mounted"))
    if subprocess.run(words, check=False, capture_output=True).returncode != 0:
        pytest.skip("mount is not permitted")
    try:
        (source.home / "mounted" / "file").touch()
        made = copied(source)
    finally:
        subprocess.run(("umount", str(source.home / "mounted")), check=True)
    assert made.label()["left_out"] == {"mounted directory": 1}
    assert list((made.home / "mounted").iterdir()) == []


@pytest.mark.fault(103)
def test_a_full_disk_ends_a_copy_and_nothing_is_left(source: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", full)
    (source.home / "folder").mkdir()
    (source.home / "folder" / "file").write_text("file")
    with pytest.raises(OSError, match="file") as raised:
        copied(source)
    assert raised.value.errno == errno.ENOSPC
    assert list((source.path.parent / "copy").iterdir()) == []


def test_a_disk_that_is_replaced_while_it_is_copied_is_gone(source: Disk) -> None:
    (source.home / "file").touch()

    def check() -> None:
        if source.path.exists():
            source.discard()

    with pytest.raises(Gone):
        copied(source, check)
    assert list((source.path.parent / "copy").iterdir()) == []


def test_a_copy_that_was_cut_off_is_made_anew(source: Disk) -> None:
    class End(Exception):
        pass

    (source.home / "file").write_text("whole")
    calls: list[None] = []

    def check() -> None:
        calls.append(None)
        if len(calls) > 1:
            raise End

    with pytest.raises(End):
        copied(source, check)
    assert [one.name for one in (source.path.parent / "copy").iterdir()] == ["new"]
    (source.home / "other").write_text("new")
    assert sorted(one.name for one in copied(source).home.iterdir()) == ["file", "other"]
