"""The files of sandboxes by both Python clients, and `sandboxctl cp`, against the live service."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox.v1 import access_pb2 as pb
from sandbox_client import AsyncClient, Client, Completed, Files, errors

from tests.support import ctl, relay
from tests.support.service import Service
from tests.support.waiting import PATIENCE

NAME = "files-1"
ODD = b"od d\n\xff'\"$HOME\\*"


@pytest.fixture(scope="module")
def sandbox(service: Service) -> Iterator[str]:
    with service.client() as client:
        client.create("files", sandbox_id=NAME, command=["sleep", "1000"])
        client.wait_until(NAME, "RUNNING", timeout=30 * PATIENCE)
        yield NAME
        client.delete(NAME)


@pytest.fixture
def between(service: Service) -> Iterator[relay.Relay]:
    with relay.to(service.port) as made:
        yield made


@pytest.mark.slow
def test_a_large_file_is_read_over_a_connection_that_is_cut(
    sandbox: str, between: relay.Relay, client: Client, tmp_path: Path
) -> None:
    data = os.urandom(8 << 20)
    (tmp_path / "large").write_bytes(data)
    sizes: list[int] = []
    written = client.files.write(sandbox, "large", tmp_path / "large", mode=0o640, sent=sizes.append)
    assert (written.size, written.mode, sum(sizes)) == (len(data), 0o640, len(data))
    read = b""
    with Client(between.address) as far:
        for number, part in enumerate(far.files.parts(sandbox, "large")):
            read += part
            if number in (5, 12):
                between.cut()
    assert read == data
    assert client.files.read(sandbox, "large", offset=100, limit=50) == data[100:150]


@pytest.mark.slow
def test_a_write_whose_answer_was_lost_is_made_once(sandbox: str, between: relay.Relay, client: Client) -> None:
    with Client(between.address) as far:
        far.page()
        between.lose_answer_to(b"the-content")
        written = far.files.write(sandbox, "once", b"the-content")
    assert between.connections == 2
    assert client.files.stat(sandbox, "once").etag == written.etag


@pytest.mark.slow
def test_a_file_that_changes_while_it_is_read_is_not_put_together(
    sandbox: str, between: relay.Relay, client: Client
) -> None:
    client.files.write(sandbox, "changing", bytes(64 << 20))
    with Client(between.address) as far, pytest.raises(errors.Aborted) as caught:
        for number, _ in enumerate(far.files.parts(sandbox, "changing")):
            if number == 3:
                client.files.write(sandbox, "changing", b"\1" * (64 << 20))
                between.cut()
    assert caught.value.reason == "FILE_CHANGED"


async def test_async_files_are_those_of_the_other_client(sandbox: str, service: Service, client: Client) -> None:
    async with AsyncClient(service.address) as far:
        written = await far.files.write(sandbox, b"asynchronous/" + ODD, b"content", parents=True)
        assert written.path.endswith(ODD)
        assert await far.files.read(sandbox, b"asynchronous/" + ODD) == b"content"
        assert [one.path async for one in far.files.list(sandbox, "asynchronous")] == [written.path]
        usage = await far.volume_usage(sandbox)
        assert usage.capacity_bytes == client.volume_usage(sandbox).capacity_bytes > usage.used_bytes
        status = await far.status(sandbox, include_usage=True)
        assert status.usage.capacity_bytes == usage.capacity_bytes
        await far.files.move(sandbox, written.path, "asynchronous/plain")
        with pytest.raises(errors.FailedPrecondition):
            await far.files.remove(sandbox, "asynchronous")
        await far.files.remove(sandbox, "asynchronous", recursive=True)
    with pytest.raises(errors.NotFound) as caught:
        client.files.stat(sandbox, "asynchronous")
    assert caught.value.reason == "FILE_NOT_FOUND"


def test_a_write_on_condition_leaves_another_file_alone(sandbox: str, client: Client) -> None:
    first = client.files.write(sandbox, "conditional", b"1")
    client.files.write(sandbox, "conditional", b"2", if_match=first.etag)
    with pytest.raises(errors.Aborted):
        client.files.write(sandbox, "conditional", b"3", if_match=first.etag)
    assert client.files.read(sandbox, "conditional") == b"2"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "run.sh").write_bytes(b"#!/bin/sh\n")
    (top / "run.sh").chmod(0o750)
    (top / os.fsdecode(b"sub/" + ODD)).write_bytes(os.urandom(300_000))
    (top / "sub" / "nothing").touch()
    leading = {
        b"beside": b"run.sh",
        b"folder": b"./sub//",
        b"loop": b"loop",
        b"out": b"/etc/hostname",
        b"-s": b"-n",
        ODD: ODD,
    }
    for name, leads_to in leading.items():
        (top / os.fsdecode(b"link" + name)).symlink_to(os.fsdecode(leads_to))
    (top / "sub" / "-up").symlink_to("../sub")
    (top / "sub").chmod(0o700)
    return top


def shown(top: Path) -> dict[str, tuple[int, bytes | None]]:
    """The modes and contents of a tree, by the paths in it."""
    return {str(path.relative_to(top)): (path.lstat().st_mode, _content(path)) for path in [top, *top.rglob("*")]}


def _content(path: Path) -> bytes | None:
    if path.is_symlink():
        return os.readlink(os.fsencode(path))  # noqa: PTH115 - as it is written
    return path.read_bytes() if path.is_file() else None


@pytest.mark.slow
def test_a_directory_is_copied_there_and_back(run: ctl.Run, sandbox: str, tree: Path, tmp_path: Path) -> None:
    assert run("cp", str(tree), f"{sandbox}:copied").code == 0
    # What is there gets the copy in it, and is replaced by another one.
    for _ in range(2):
        assert run("cp", str(tree), f"{sandbox}:copied").code == 0
    assert run("cp", f"{sandbox}:copied/tree", str(tmp_path / "back")).code == 0
    assert shown(tmp_path / "back") == shown(tree)
    assert run("cp", f"{sandbox}:copied/tree", str(tmp_path / "back")).code == 0
    assert shown(tmp_path / "back" / "tree") == shown(tree)


def test_a_file_is_copied_there_and_back(run: ctl.Run, sandbox: str, tree: Path, tmp_path: Path) -> None:
    assert run("cp", str(tree / "run.sh"), f"default/{sandbox}:/home/agent/renamed.sh").code == 0
    assert run("cp", f"{sandbox}:renamed.sh", str(tmp_path)).code == 0
    assert shown(tmp_path / "renamed.sh") == {".": (0o100750, b"#!/bin/sh\n")}


def test_links_are_copied_from_a_sandbox_and_what_is_no_file_is_said(
    run: ctl.Run, sandbox: str, client: Client, tmp_path: Path
) -> None:
    client.run(
        sandbox, ["/bin/sh", "-c", "mkdir odd && cd odd && ln -s /etc/hostname link && mkfifo pipe && echo 1 >one"]
    )
    done = run("cp", f"{sandbox}:odd", str(tmp_path / "odd"))
    assert (done.code, "pipe" in done.err) == (1, True)
    assert (tmp_path / "odd" / "link").readlink() == Path("/etc/hostname")
    assert sorted(path.name for path in (tmp_path / "odd").iterdir()) == ["link", "one"]


@pytest.mark.slow
def test_links_that_cannot_be_made_are_named_and_the_others_are_made(
    run: ctl.Run, sandbox: str, client: Client, tmp_path: Path
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    for name in ("first", "taken", "third"):
        (links / name).symlink_to("where")
    client.files.make_directory(sandbox, "linked/links/taken", parents=True)
    done = run("cp", str(links), f"{sandbox}:linked")
    assert (done.code, done.err.count("left out")) == (1, 1)
    assert "links/taken: Is a directory" in done.err
    kinds = {one.path.rpartition(b"/")[2]: one.link_target for one in client.files.list(sandbox, "linked/links")}
    assert kinds == {b"first": b"where", b"taken": b"", b"third": b"where"}
    client.files.remove(sandbox, "linked/links/taken")
    assert run("cp", str(links), f"{sandbox}:linked").code == 0
    (tmp_path / "back" / "links" / "taken").mkdir(parents=True)
    done = run("cp", f"{sandbox}:linked/links", str(tmp_path / "back"))
    assert (done.code, done.err.count("left out")) == (1, 1)
    assert "links/taken: Is a directory" in done.err
    assert sorted(one.name for one in (tmp_path / "back" / "links").iterdir() if one.is_symlink()) == ["first", "third"]


@pytest.mark.parametrize(
    ("exit_code", "printed", "code", "said"),
    [(1, b"", 1, "link: the command in the sandbox has failed"), (0, b"1 why", 2, "an answer that is none")],
)
def test_a_sandbox_that_cannot_say_which_links_were_made_is_no_success(
    run: ctl.Run,
    sandbox: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exit_code: int,
    printed: bytes,
    code: int,
    said: str,
) -> None:
    (tmp_path / "link").symlink_to("where")
    completed = Completed("x", exit_code, "EXIT", printed, b"", ())
    monkeypatch.setattr(Client, "run", lambda *_words, **_options: completed)
    done = run("cp", str(tmp_path), f"{sandbox}:unsaid")
    assert (done.code, said in done.err) == (code, True), done.err


def test_a_name_that_leads_out_of_the_copy_is_refused(
    run: ctl.Run, sandbox: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = pb.FileInfo(path=b"/home/agent/..", type=pb.FILE_TYPE_DIRECTORY)
    monkeypatch.setattr(Files, "list", lambda *_words, **_options: iter([entry]))
    done = run("cp", f"{sandbox}:.", str(tmp_path / "copy"))
    assert (done.code, "'..'" in done.err) == (2, True), done.err
    assert not (tmp_path / "copy").exists()


@pytest.mark.slow
def test_a_copy_is_not_written_through_a_link_of_a_former_one(
    run: ctl.Run, sandbox: str, client: Client, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    client.run(sandbox, ["/bin/sh", "-c", f"mkdir turned && ln -s '{outside}' turned/folder"])
    assert run("cp", f"{sandbox}:turned", str(tmp_path)).code == 0
    assert (tmp_path / "turned" / "folder").readlink() == outside
    client.run(sandbox, ["/bin/sh", "-c", "rm turned/folder && mkdir turned/folder && echo 1 >turned/folder/file"])
    for source, target in (("turned", tmp_path), ("turned/folder", tmp_path / "turned")):
        assert run("cp", f"{sandbox}:{source}", str(target)).code == 0
        assert (tmp_path / "turned" / "folder" / "file").read_text() == "1\n"
        assert list(outside.iterdir()) == []
        (tmp_path / "turned" / "folder" / "file").unlink()
        (tmp_path / "turned" / "folder").rmdir()
        (tmp_path / "turned" / "folder").symlink_to(outside)


def test_a_copy_that_breaks_off_leaves_the_former_file(
    run: ctl.Run, sandbox: str, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.files.write(sandbox, "whole", bytes(4 << 20))
    (tmp_path / "whole").write_bytes(b"former")

    def broken(self: Files, *words: object, **options: object) -> Iterator[bytes]:
        yield bytes(1000)
        raise errors.Aborted("changed")

    monkeypatch.setattr(Files, "parts", broken)
    assert run("cp", f"{sandbox}:whole", str(tmp_path)).code == 1
    assert shown(tmp_path) == {".": shown(tmp_path)["."], "whole": (shown(tmp_path)["whole"][0], b"former")}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("a", "b"), 2, "SANDBOX_ID:PATH"),
        (("files-1:a", "files-1:b"), 2, "SANDBOX_ID:PATH"),
        (("files-1:never-was", "."), 3, "check it"),
        (("/never-was", "files-1:"), 2, "/never-was"),
        (("never-was:x", "."), 3, "sandboxctl list"),
    ],
)
def test_copies_that_cannot_be_made_say_why(
    run: ctl.Run, sandbox: str, words: tuple[str, ...], code: int, said: str
) -> None:
    done = run("cp", *words)
    assert (done.code, said.lower() in done.err.lower()) == (code, True), done.err
