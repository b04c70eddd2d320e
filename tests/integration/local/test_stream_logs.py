"""StreamLogs on the local engine: the contract, and what depends on its files."""

import asyncio
import contextlib
import os
from pathlib import Path

import grpc
import pytest
from sandbox_server.domain.phase import Phase
from sandbox_server.engines.local import log_times, output

from tests.contract.logs import *  # noqa: F403 - the tests themselves
from tests.contract.logs import numbered
from tests.support.local import LocalRig
from tests.support.logs import Output, Reader, Talker, reading
from tests.support.rig import A
from tests.support.working import refusal

PROGRAM = """
: >said
tail -c +1 -f said &
while ! test -e crash; do sleep 0.02; done
rm crash; exit 3
"""
UNTIL_GO = "until test -e go; do sleep 0.05; done"


class LocalTalker:
    """A sandbox that prints what is appended to the file `said` of its home."""

    def __init__(self, rig: LocalRig) -> None:
        self.rig = rig
        self._home = rig.ground.home(A)

    @property
    def log(self) -> Path:
        return self.rig.ground.folder(A) / "main.log"

    async def say(self, data: bytes) -> None:
        before = self._printed
        with (self._home / "said").open("ab") as said:
            said.write(data)
        await self.rig.there(lambda: self._printed == before + len(data))

    @property
    def _printed(self) -> int:
        return sum(
            one.stat().st_size for one in self.log.parent.glob("main.log*") if one.suffix not in (".id", ".times")
        )

    async def crash(self) -> None:
        (self._home / "crash").touch()
        await self.rig.until(A, lambda one: one.status.last_exit is not None)


@pytest.fixture
async def talker(rig: LocalRig) -> Talker:
    await rig.create(A, spec=rig.ground.script(PROGRAM))
    await rig.settled(A, Phase.RUNNING)
    made = LocalTalker(rig)
    await rig.there(lambda: (rig.ground.home(A) / "said").exists())
    return made


@pytest.mark.slow
async def test_positions_hold_after_a_restart_of_the_service(talker: LocalTalker, reader: Reader) -> None:
    await talker.say(numbered(0, 10))
    found = await reader.read()
    await talker.rig.restart()
    await talker.rig.settled(A, Phase.RUNNING)
    await talker.say(numbered(10, 20))
    async with reading(talker.rig) as later:
        await later.read(found)
    assert found.data == numbered(0, 20)
    assert found.gaps == []


@pytest.mark.slow
async def test_output_of_a_stopped_sandbox_is_kept(talker: LocalTalker, reader: Reader) -> None:
    await talker.say(b"last\n")
    found = Output()
    await reader.read(found)
    await talker.rig.begin(A, Phase.STOPPED)
    await talker.rig.settled(A, Phase.STOPPED)
    assert (await reader.read(follow=True)).ended == "SANDBOX_STOPPED"
    # Without bubblewrap the shell says what it was ended by.
    whole = (await reader.read()).data
    assert whole.startswith(b"last\n")
    await reader.read(found)
    assert (found.data, found.gaps) == (whole, [])


@pytest.mark.slow
async def test_output_of_a_sandbox_that_fails_at_once_is_kept(rig: LocalRig) -> None:
    await rig.create(A, spec=rig.ground.script("echo cannot begin; exit 1"))
    await rig.until(A, lambda one: one.status.phase is Phase.ERROR and one.status.restart_count > 1)
    async with reading(rig) as reader:
        assert (await reader.read()).data == b"cannot begin\n"
        found = await reader.read(previous=True, follow=True)
        assert (found.data, found.ended) == (b"cannot begin\n", "PROCESS_ENDED")


async def test_sandbox_that_never_ran_has_no_output(rig: LocalRig) -> None:
    await rig.create(A, spec=rig.ground.script("exit 0"))
    await rig.begin(A, Phase.STOPPED)
    await rig.settled(A, Phase.STOPPED)
    async with reading(rig) as reader:
        output.former(rig.ground.folder(A) / "main.log").unlink(missing_ok=True)
        (rig.ground.folder(A) / "main.log").unlink(missing_ok=True)
        with pytest.raises(grpc.RpcError) as caught:
            await reader.read()
    code, reason, facts = refusal(caught.value)
    assert (code, reason, facts["phase"]) == ("FAILED_PRECONDITION", "NO_OUTPUT_KEPT", "STOPPED")


async def test_line_without_its_end_is_sent_soon(talker: LocalTalker, reader: Reader) -> None:
    found = Output()
    following = asyncio.create_task(reader.read(found, follow=True))
    await talker.say(b"name: ")
    await talker.rig.there(lambda: found.data == b"name: ")
    await talker.say(b"me\n")
    await talker.rig.there(lambda: found.data == b"name: me\n")
    following.cancel()


@pytest.mark.fault(79)
@pytest.mark.slow
async def test_follower_reads_through_renamed_files_with_every_line_once(rig: LocalRig) -> None:
    count = 2_200_000
    await rig.create(A, spec=rig.ground.script(f"seq 1 10; {UNTIL_GO}; seq 11 {count}; exec sleep MARK"))
    await rig.settled(A, Phase.RUNNING)
    found = bytearray()
    gaps = 0
    async with reading(rig) as reader:
        position = ""
        while not found.endswith(b"\n%d\n" % count):
            # Cut again and again.
            messages = 0
            stream = reader.stream(follow=True, after_position=position)
            async for one in stream:
                if one.HasField("lines"):
                    found += one.lines.data
                    position = one.lines.position
                    (rig.ground.home(A) / "go").touch()
                gaps += one.HasField("gap")
                messages += 1
                if messages > 90 or found.endswith(b"\n%d\n" % count):
                    break
            stream.cancel()
    if gaps == 0:
        assert found == b"".join(b"%d\n" % number for number in range(1, count + 1))
    else:
        lines = [int(one) for one in found.split(b"\n") if one]
        assert lines[-1] == count


def printed(log: Path) -> bytes:
    """What a file of a log has; nothing while it is renamed."""
    with contextlib.suppress(FileNotFoundError):
        return log.read_bytes()
    return b""


@pytest.mark.fault(79)
@pytest.mark.slow
async def test_slow_reader_gets_a_gap_and_then_what_is_kept(rig: LocalRig) -> None:
    script = f"seq 1 100; {UNTIL_GO}; seq 101 4000000; echo; echo done; exec sleep MARK"
    await rig.create(A, spec=rig.ground.script(script))
    await rig.settled(A, Phase.RUNNING)
    async with reading(rig) as reader:
        stream = reader.stream(follow=True)
        found = Output()
        while not found.data:
            found.add(await stream.read())
        (rig.ground.home(A) / "go").touch()
        log = rig.ground.folder(A) / "main.log"
        await rig.there(lambda: printed(log).endswith(b"\ndone\n"), within=30)
        while not found.data.endswith(b"\ndone\n"):
            found.add(await stream.read())
        stream.cancel()
    assert len(found.gaps) >= 1
    assert len(found.data) < 3 * output.MOST
    # A file of the log may end within a line.
    before = found.data[: found.gaps[0]].split()[:-1]
    assert [int(one) for one in before] == list(range(1, len(before) + 1))


@pytest.mark.slow
async def test_file_that_is_about_to_be_begun_is_no_missing_log(talker: LocalTalker, reader: Reader) -> None:
    await talker.say(b"first\n")
    found = Output()
    following = asyncio.create_task(reader.read(found, follow=True))
    await talker.rig.there(lambda: found.data)
    talker.log.rename(talker.log.with_name("main.log.1"))
    await asyncio.sleep(0.3)
    assert (await reader.read()).data == b"first\n"
    talker.log.write_bytes(b"second\n")
    await talker.rig.there(lambda: found.data == b"first\nsecond\n")
    following.cancel()
    assert found.gaps == []


@pytest.mark.fault(79)
@pytest.mark.slow
async def test_position_that_was_rotated_away_is_followed_by_a_gap(talker: LocalTalker, reader: Reader) -> None:
    await talker.say(b"first\n")
    found = await reader.read()
    for number, name in ((1, "main.log.7"), (2, "main.log")):
        (talker.log.parent / name).write_bytes(b"file %d\n" % number)
    await reader.read(found)
    assert (found.data, found.gaps) == (b"first\nfile 1\nfile 2\n", [6])
    (talker.log.parent / "main.log.7").unlink()


@pytest.mark.slow
async def test_since_sends_what_was_printed_later_and_little_more(talker: LocalTalker, reader: Reader) -> None:
    times = talker.log.with_name("main.log.times")
    for number in range(4):
        await talker.say(b"line %d\nhalf " % number)
        end = f" 1 {talker.log.stat().st_size}\n"
        # Once a second; ten times as often in tests.
        await talker.rig.there(lambda end=end: end in times.read_text())
    marks = [line.split() for line in times.read_text().splitlines()]
    begin = int(marks[0][0]) - 100
    # As if the marks were ten seconds apart.
    times.write_text("".join(f"{begin + 10 * number} {' '.join(one[1:])}\n" for number, one in enumerate(marks)))
    whole = talker.log.read_bytes()
    for number, one in enumerate(marks):
        for later in (0, 9):
            found = await reader.read(since={"seconds": begin + 10 * number + later})
            line = whole[: int(one[2])].rfind(b"\n") + 1
            assert found.data == whole[line:]
    assert (await reader.read(since={"seconds": begin - 1})).data == whole
    assert (await reader.read(since={"seconds": begin}, tail_lines=2)).data == b"half line 3\nhalf "


@pytest.mark.slow
def test_marks_of_a_log_are_bounded_and_none_is_later_than_what_it_says(tmp_path: Path) -> None:
    log = tmp_path / "main.log"
    marks = log_times.Marks()
    (tmp_path / "main.log.id").write_text("a" * output.ID)
    for second in range(12_000):
        log.write_bytes(b"")
        os.truncate(log, second)
        marks.look(log, second + 0.5)
    assert (tmp_path / "main.log.times").stat().st_size <= 65 * 1024
    for since in (0, 1, 5, 100, 11_000, 11_999, 20_000):
        found = log_times.place(log, since)
        assert found is None or (found.number == 1 and found.offset < max(since, 1))
    latest = log_times.place(log, 20_000)
    assert latest is not None
    assert latest.offset > 11_900


@pytest.mark.fault(80)
@pytest.mark.parametrize("isolation", ["plain"])
@pytest.mark.slow
async def test_links_fifos_and_huge_files_in_place_of_the_log_do_no_harm(
    talker: LocalTalker, reader: Reader, tmp_path: Path
) -> None:
    """Without isolation a sandbox can reach its log."""
    (tmp_path / "secret").write_text("hush\n")
    await talker.say(b"some\n")
    for name in ("main.log", "main.log.id"):
        place = talker.log.parent / name
        kept = place.read_bytes()
        for make in (lambda path: path.symlink_to(tmp_path / "secret"), os.mkfifo, Path.mkdir):
            place.unlink()
            make(place)
            try:
                found = (await reader.read()).data
            except grpc.RpcError as error:
                assert refusal(error)[1] == "NO_OUTPUT_KEPT"
                found = b""
            assert found in (b"", b"some\n")
            place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink()
            place.write_bytes(kept)
    with talker.log.open("r+b") as file:
        file.truncate(1 << 40)
    assert len((await reader.read()).data) <= output.MOST
    assert len((await reader.read(tail_lines=5)).data) <= output.MOST
    talker.log.write_bytes(b"")
