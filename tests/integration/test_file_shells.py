"""The programs that work on files, in each shell and with each set of tools that an image may have, where they are installed."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sandbox_server.access import content as framing
from sandbox_server.access import files
from sandbox_server.access.asking import Asking, Where
from sandbox_server.access.files import Files
from sandbox_server.access.trees import Trees
from sandbox_server.domain import errors
from sandbox_server.domain.files import File, FileType, Write
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.engines.local import pipes

from tests.support import samples
from tests.support.variants import some

SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"], "uutils": ["dash"]}
MULTICALL = {"busybox": ["busybox"], "uutils": ["/usr/bin/coreutils"]}
EVERY = bytes(set(range(1, 256)) - set(b"/"))
ODD = [
    b"-n",
    b" a  b ",
    b"line\n",
    b"\n\n",
    b"*",
    b"$(touch made)",
    b"\\0101%s%%",
    b"\xff\x80\x81\x88",
    b"n" * 255,
    EVERY,
]


class Engine:
    """Enters a directory of the test instead of a sandbox."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        program, *words = SHELLS[name]
        found = shutil.which(program)
        if found is None:
            pytest.skip(f"{name} is not installed")
        self._words = [found, *words]
        self._path = "/usr/bin:/bin"
        if name in MULTICALL:
            # Its own tools only, as in an image that has no others.
            tools = folder / "tools"
            tools.mkdir()
            self._path = str(tools)
            multicall = shutil.which(MULTICALL[name][0])
            if multicall is None:
                pytest.skip(f"{name} is not installed")
            for tool in ("stat", "dd", "head", "readlink", "mv", "rm", "chmod", "chown", "cat", "mkdir", "rmdir", "df"):
                (tools / tool).symlink_to(multicall)
        self.home = folder / "home"
        self.home.mkdir()

    async def incarnation(self, _sandbox: object) -> str:
        return "1"

    @contextlib.asynccontextmanager
    async def enter(self, _sandbox: Any, _incarnation: str, program: Sequence[str]) -> AsyncIterator[pipes.Stream]:
        words = [*self._words, *program[1:]]
        with contextlib.ExitStack() as opened:
            taken, printed, stream = opened.enter_context(pipes.opened(lambda: None))
            env = {"PATH": self._path, "SANDBOX_ACCESS": "/nowhere"}
            child = await asyncio.create_subprocess_exec(
                *words, stdin=taken, stdout=printed, stderr=DEVNULL, env=env, cwd=self.home
            )
            taken.close()
            printed.close()
            try:
                yield stream
            finally:
                opened.close()
                await child.wait()


class Found:
    """Every sandbox runs."""

    async def running(self, *_: object) -> Sandbox:
        return samples.sandbox()

    async def incarnation(self, _sandbox: object) -> str:
        return "1"


class Work:
    def __init__(self, engine: Engine) -> None:
        found: Any = Found()
        store: Any = None
        entered: Any = engine
        asking = Asking(found, entered, Pace())
        self.files = Files(store, asking)
        self.trees = Trees(store, asking)
        self.home = engine.home
        # The `rm` of uutils 0.0.17 takes UTF-8 only.
        self.names_removed = [one for one in ODD if engine.name != "uutils" or one.isascii()]

    def where(self, path: bytes) -> Where:
        nobody: Any = None
        return Where(nobody, nobody, path)

    async def stat(self, path: bytes, follow: bool = False) -> File:
        return await self.files.stat(self.where(path), follow)

    async def read(self, path: bytes, offset: int = 0, limit: int = 2**63 - 1) -> tuple[File, bytes]:
        described: list[File] = []
        content: list[bytes] = []

        async def begin(file: File) -> None:
            described.append(file)

        async def send(data: bytes) -> None:
            content.append(data)

        await self.files.read(self.where(path), offset, limit, begin, send)
        return described[0], b"".join(content)

    async def write(self, path: bytes, *parts: bytes, **asked: Any) -> File:
        async def given() -> AsyncIterator[bytes]:
            for one in parts:
                yield one

        return await self.files.write(self.where(path), None, Write(**asked), given())

    async def names(self, path: bytes = b"", most: int = 1000) -> list[bytes]:
        """The names in a directory, page by page."""
        found: list[bytes] = []
        after = b""
        while True:
            page, after = await self.trees.list(self.where(path), after, most)
            assert len(page) <= most
            found += [one.path.rsplit(b"/", 1)[1] for one in page]
            if not after:
                break
        return found

    async def make(self, path: bytes, parents: bool = False, mode: int | None = None) -> File:
        return await self.trees.make(self.where(path), None, parents, mode)

    async def remove(self, path: bytes, recursive: bool = False) -> None:
        await self.trees.remove(self.where(path), None, recursive)

    async def move(self, path: bytes, to: bytes, overwrite: bool = False) -> File:
        return await self.trees.move(self.where(path), to, None, overwrite)


@pytest.fixture(params=some(SHELLS))
def work(request: pytest.FixtureRequest, tmp_path: Path) -> Work:
    return Work(Engine(request.param, tmp_path))


@pytest.fixture
def small(work: Work) -> Iterator[Work]:
    """On a disk of 1 MiB."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", work.home], check=False)
    if mounted.returncode:
        pytest.skip("nothing may be mounted here")
    yield work
    # A program that breaks off may still be at its end.
    subprocess.run(["umount", "--lazy", work.home], check=True)


async def refused(call: Any) -> str:
    with pytest.raises(errors.ServiceError) as caught:
        await call
    return caught.value.reason


@pytest.mark.slow
async def test_names_and_contents_are_bytes(work: Work) -> None:
    content = bytes(range(256)) * 5
    for name in ODD:
        written = await work.write(name, content[:7], b"", content[7:])
        assert written.path == os.fsencode(work.home) + b"/" + name
        assert (work.home / os.fsdecode(name)).read_bytes() == content
        assert await work.read(name) == (written, content)
        assert await work.stat(name) == written
        assert written.modified == (work.home / os.fsdecode(name)).stat().st_mtime_ns
    assert sorted(os.fsencode(one.name) for one in work.home.iterdir()) == sorted(ODD)


@pytest.mark.slow
async def test_contents_of_any_size_from_any_offset(work: Work) -> None:
    for size in (0, 1, files.CHUNK, 2 * framing.FRAME + 5):
        # The `dd` of uutils 0.0.17 loses bytes of a thousand without a line end.
        content = ((os.urandom(198) + b"\n") * (size // 199 + 1))[:size]
        await work.write(b"file", *(content[begin : begin + 700_000] for begin in range(0, size, 700_000)))
        assert (work.home / "file").read_bytes() == content
        assert (await work.read(b"file"))[1] == content
        for offset, limit in ((0, 0), (1, 5), (size // 2, files.CHUNK + 3), (size, 9), (size + 9, 9), (7, size + 9)):
            assert (await work.read(b"file", offset, limit))[1] == content[offset : offset + limit]


async def test_files_of_proc_and_sparse_files(work: Work) -> None:
    content = (await work.read(b"/proc/version"))[1]
    assert content == Path("/proc/version").read_bytes()
    assert (await work.read(b"/proc/version", 3, 5))[1] == content[3:8]
    with (work.home / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert (await work.read(b"sparse", (1 << 40) - 300_000))[1] == bytes(300_000)


async def test_usage_of_the_disk(small: Work) -> None:
    nobody: Any = None
    before = await small.files.usage(nobody, nobody)
    await small.write(b"file", bytes(500_000))
    after = await small.files.usage(nobody, nobody)
    assert before.capacity == after.capacity == 1 << 20
    assert after.used - before.used == 503_808
    assert after.used_inodes - before.used_inodes == 1
    assert after.inodes >= after.used_inodes


async def test_links_are_followed_and_loops_refused(work: Work) -> None:
    (work.home / "sub").mkdir()
    (work.home / "folder").symlink_to("sub")
    (work.home / "odd").symlink_to("folder/../sub/with\nline\n")
    written = await work.write(b"odd", b"x")
    assert (work.home / "sub" / "with\nline\n").read_text() == "x"
    link = await work.stat(b"odd")
    assert (link.type, link.target) == (FileType.LINK, b"folder/../sub/with\nline\n")
    assert (await work.stat(b"odd", follow=True)).etag == written.etag
    (work.home / "loop").symlink_to("loop")
    (work.home / "slash").symlink_to("made/")
    assert await refused(work.write(b"loop", b"x")) == "NOT_A_FILE"
    assert await refused(work.read(b"loop")) == "NOT_A_FILE"
    await work.write(b"slash", b"x")
    assert (work.home / "made").read_text() == "x"


async def test_each_cause_of_a_refusal_is_told(work: Work) -> None:
    (work.home / "folder").mkdir()
    (work.home / "file").touch()
    os.mkfifo(work.home / "fifo")
    assert await refused(work.read(b"no")) == "FILE_NOT_FOUND"
    assert await refused(work.read(b": Permission denied")) == "FILE_NOT_FOUND"
    assert await refused(work.stat(b"no\n: Permission denied\n")) == "FILE_NOT_FOUND"
    assert await refused(work.write(b"no/file")) == "FILE_NOT_FOUND"
    for name in (b"folder", b"fifo", b"/dev/null", b"", b"/"):
        assert await refused(work.read(name)) == "NOT_A_FILE"
        assert await refused(work.write(name)) == "NOT_A_FILE"
    for call in (work.read(b"file/x"), work.write(b"file/x"), work.stat(b"file/x")):
        assert await refused(call) == "NOT_A_DIRECTORY"
    assert await refused(work.write(b"/proc/none", b"x")) in ("FILE_NOT_FOUND", "PERMISSION_DENIED_IN_SANDBOX")
    assert await refused(work.stat(b"d/" * 1990 + b"f")) == "FILE_NOT_FOUND"


async def test_owner_and_mode_of_the_former_file_are_kept(work: Work) -> None:
    (work.home / "file").touch(mode=0o640)
    if os.getuid() == 0:
        os.chown(work.home / "file", 12, 34)
    before = (work.home / "file").stat()
    written = await work.write(b"file", b"x")
    after = (work.home / "file").stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert written.permissions == 0o640
    assert (await work.write(b"file", b"x", mode=0o4711)).permissions == 0o4711


@pytest.mark.fault(99)
async def test_full_disk_leaves_the_former_file(small: Work) -> None:
    await small.write(b"file", b"former")
    assert await refused(small.write(b"file", *[bytes(300_000)] * 60)) == "DISK_FULL"
    assert (small.home / "file").read_bytes() == b"former"
    assert [one.name for one in small.home.iterdir()] == ["file"]


async def test_write_that_breaks_off_removes_what_it_has_written(work: Work) -> None:
    (work.home / "file").write_text("former")

    async def given() -> AsyncIterator[bytes]:
        yield bytes(3 * framing.FRAME)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await work.files.write(work.where(b"file"), None, Write(), given())
    assert [one.name for one in work.home.iterdir()] == ["file"]
    assert (work.home / "file").read_text() == "former"


@pytest.mark.parametrize("work", SHELLS, indirect=True)
async def test_directory_is_listed_with_every_name_and_page_by_page(work: Work) -> None:
    names = sorted({*ODD, b".hidden", b"..odd"})
    for name in names:
        (work.home / os.fsdecode(name)).write_bytes(name)
    (work.home / "link\n").symlink_to("where\nit leads\n")
    names = sorted([*names, b"link\n"])
    assert await work.names() == names
    assert await work.names(most=3) == names
    page, after = await work.trees.list(work.where(b""), b"", 1000)
    assert after == b""
    for one in page:
        assert one.path.startswith(os.fsencode(work.home) + b"/")
        assert one == await work.stat(one.path)
    (work.home / "empty").mkdir()
    assert await work.names(b"empty") == []
    assert await refused(work.names(b"link\n")) == "FILE_NOT_FOUND"
    assert await refused(work.names(b"-n")) == "NOT_A_DIRECTORY"


@pytest.mark.slow
@pytest.mark.parametrize("work", ["dash"], indirect=True)
async def test_ten_thousand_entries_are_paged_while_others_come_and_go(work: Work) -> None:
    for number in range(10_000):
        (work.home / f"{number * 7919 % 10_007:05}").touch()
    stay = sorted(os.fsencode(one.name) for one in work.home.iterdir())
    found: list[bytes] = []
    after = b""
    for page in range(12):
        entries, after = await work.trees.list(work.where(b""), after, 1000)
        found += [one.path.rsplit(b"/", 1)[1] for one in entries]
        (work.home / f"before-{page}").touch()
        (work.home / "00000").unlink(missing_ok=True)
        if not after:
            break
    assert after == b""
    assert [one for one in found if not one.startswith(b"before")] == stay


@pytest.mark.parametrize("work", SHELLS, indirect=True)
async def test_directories_are_made(work: Work) -> None:
    assert (await work.make(b"-p", mode=0o700)).permissions == 0o700
    assert await refused(work.make(b"-p")) == "FILE_EXISTS"
    assert (await work.make(b"-p", parents=True)).type is FileType.DIRECTORY
    assert await refused(work.make(b"a/b\n/c")) == "FILE_NOT_FOUND"
    await work.make(b"a/b\n/c", parents=True)
    assert (work.home / "a" / "b\n" / "c").is_dir()
    (work.home / "file").touch()
    assert await refused(work.make(b"file")) == "FILE_EXISTS"
    assert await refused(work.make(b"file", parents=True)) == "FILE_EXISTS"
    assert await refused(work.make(b"file/x", parents=True)) == "NOT_A_DIRECTORY"


async def test_files_and_directories_are_removed(work: Work) -> None:
    for name in work.names_removed:
        (work.home / os.fsdecode(name)).touch()
        await work.remove(name)
    (work.home / "tree" / "-n" / "deep").mkdir(parents=True)
    (work.home / "tree" / "file\n").touch()
    (work.home / "link").symlink_to("tree")
    await work.remove(b"link", recursive=True)
    assert await refused(work.remove(b"tree")) == "DIRECTORY_NOT_EMPTY"
    assert (work.home / "tree" / "-n" / "deep").is_dir()
    await work.remove(b"tree/-n/deep")
    await work.remove(b"tree", recursive=True)
    assert await refused(work.remove(b"tree")) == "FILE_NOT_FOUND"
    assert list(work.home.iterdir()) == []


@pytest.mark.slow
async def test_files_and_directories_are_moved(work: Work) -> None:
    for number, name in enumerate(work.names_removed):
        (work.home / str(number)).write_bytes(name)
        before = await work.stat(str(number).encode())
        moved = await work.move(str(number).encode(), name)
        assert (moved.etag, moved.path) == (before.etag, os.fsencode(work.home) + b"/" + name)
        assert (work.home / os.fsdecode(name)).read_bytes() == name
        await work.remove(name)
    for name in ("one", "two"):
        (work.home / name).write_text(name)
    for name in ("full/inner", "empty", "other"):
        (work.home / name).mkdir(parents=True)
    (work.home / "link").symlink_to("empty")
    assert await refused(work.move(b"no", b"new")) == "FILE_NOT_FOUND"
    assert await refused(work.move(b"one", b"no/new")) == "FILE_NOT_FOUND"
    assert await refused(work.move(b"one", b"two")) == "FILE_EXISTS"
    assert await refused(work.move(b"one", b"empty", overwrite=True)) == "NOT_A_FILE"
    assert await refused(work.move(b"empty", b"one", overwrite=True)) == "NOT_A_DIRECTORY"
    assert await refused(work.move(b"empty", b"full", overwrite=True)) == "DIRECTORY_NOT_EMPTY"
    await work.move(b"one", b"two", overwrite=True)
    assert (work.home / "two").read_text() == "one"
    await work.move(b"two", b"link", overwrite=True)
    assert (work.home / "link").read_text() == "one"
    await work.move(b"full", b"other", overwrite=True)
    assert (work.home / "other" / "inner").is_dir()
    assert await refused(work.move(b"other", b"other/inner/x")) == "FILE_REFUSED"
    assert sorted(one.name for one in work.home.iterdir()) == ["empty", "link", "other"]


async def test_nothing_is_moved_to_another_file_system(small: Work) -> None:
    await small.write(b"file", b"x")
    assert await refused(small.move(b"file", os.fsencode(small.home.parent) + b"/file")) == "FILE_REFUSED"
    assert (small.home / "file").exists()
