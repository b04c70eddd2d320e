"""Files that are replaced while the service runs."""

import os
from pathlib import Path
from typing import Any

import pytest
from sandbox_server import files
from structlog.testing import capture_logs


class Reading:
    """A number in a file, and how often it was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.now = files.Reloaded(self.read, path, again=0)

    def read(self) -> int:
        self.count += 1
        return int(files.read("number", self.path))


def renamed(path: Path, text: str) -> None:
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


def written(path: Path, text: str) -> None:
    path.write_text(text)


def swapped(path: Path, text: str) -> None:
    """As the kubelet updates a Secret volume: one rename of the link that the file's own link goes through."""
    folder = path.parent / f"..{text}"
    folder.mkdir()
    (folder / path.name).write_text(text)
    (path.parent / "..data_tmp").symlink_to(folder.name)
    (path.parent / "..data_tmp").rename(path.parent / "..data")
    if not path.is_symlink():
        path.unlink(missing_ok=True)
        path.symlink_to(f"..data/{path.name}")


@pytest.mark.find(41)
@pytest.mark.parametrize("replace", [renamed, written, swapped])
def test_replaced_file_is_read_once(tmp_path: Path, replace: Any) -> None:
    path = tmp_path / "number"
    replace(path, "1")
    reading = Reading(path)
    assert [reading.now() for _ in range(3)] == [1, 1, 1]
    assert reading.count == 1
    replace(path, "22")
    assert [reading.now() for _ in range(3)] == [22, 22, 22]
    assert reading.count == 2


@pytest.mark.find(41)
@pytest.mark.parametrize("bad", ["", "one", None])
def test_file_that_cannot_be_used_changes_nothing_and_is_logged_once(tmp_path: Path, bad: str | None) -> None:
    path = tmp_path / "number"
    path.write_text("1")
    reading = Reading(path)
    if bad is None:
        path.unlink()
    else:
        path.write_text(bad)
    with capture_logs() as logged:
        assert [reading.now() for _ in range(3)] == [1, 1, 1]
    assert [(one["event"], one["log_level"], one["files"]) for one in logged] == [
        ("files_not_reloaded", "warning", [str(path)])
    ]
    path.write_text("333")
    with capture_logs() as logged:
        assert [reading.now() for _ in range(3)] == [333, 333, 333]
    assert [one["event"] for one in logged] == ["files_reloaded"]


@pytest.mark.find(41)
def test_file_that_becomes_usable_by_itself_is_taken_up(tmp_path: Path) -> None:
    path, valid = tmp_path / "number", True

    def read() -> str:
        if not valid:
            raise ValueError("not valid yet")
        return path.read_text()

    path.write_text("1")
    now = files.Reloaded(read, path, again=0)
    path.write_text("22")
    valid = False
    assert now() == "1"
    valid = True
    assert now() == "22"


@pytest.mark.find(41)
def test_file_that_cannot_be_used_is_refused_at_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"number {tmp_path}/none: No such file"):
        Reading(tmp_path / "none")
    with pytest.raises(ValueError, match="Is a directory"):
        files.read("number", tmp_path)


@pytest.mark.fault(71)
@pytest.mark.find(24)
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_closed_file_is_refused_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "closed"
    path.write_text("1")
    path.chmod(0)
    with pytest.raises(ValueError, match="mode 0000"):
        files.read("number", path)
