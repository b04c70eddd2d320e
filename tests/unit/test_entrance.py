"""What the first words of an exec, or its status, mean: that the program runs, that there is no shell, or a failure that may pass."""

import asyncio
from typing import Any

import pytest
from sandbox_server import engines
from sandbox_server.engines.kubernetes import entrance
from sandbox_server.engines.kubernetes.streams import Cause, Details, End

RUNC = "OCI runtime exec failed: exec failed: unable to start container process: "
NO_SHELL = [
    # containerd and runc
    f'failed to exec in container: failed to start exec "a": {RUNC}exec: "/bin/sh": stat /bin/sh: no such file or directory: unknown',
    f'{RUNC}exec: "/bin/sh": permission denied: unknown',
    f'{RUNC}exec /bin/sh: exec format error "/bin/sh": exec format error',
    # CRI-O and crun
    "executable file `/bin/sh` not found in $PATH: No such file or directory: OCI runtime attempted to invoke a command that was not found",
]
PASSING = [
    "",
    'unable to upgrade connection: container not found ("sandbox")',
    "error dialing backend: dial tcp 10.0.0.2:10250: connect: connection refused",
    f"{RUNC}error starting setns process: fork/exec /proc/self/exe: resource temporarily unavailable: unknown",
    "cannot exec in a stopped state: unknown",
    "container is in CONTAINER_EXITED state",
]


class Stream:
    def __init__(self, *said: bytes, end: End | None = None) -> None:
        self._said = [*said]
        self.end = end or End()

    async def read(self, most: int) -> bytes:
        if not self._said:
            return b""
        first = self._said.pop(0)
        if first[most:]:
            self._said.insert(0, first[most:])
        return first[:most]


async def started(stream: Any) -> None:
    await entrance._started(stream, 0.2)


async def test_program_has_started_with_its_sign_and_its_output_is_left() -> None:
    stream = Stream(b"\nhere\n")
    await started(stream)
    assert await stream.read(10) == b"here\n"


@pytest.mark.parametrize("words", NO_SHELL)
async def test_missing_shell_is_told_by_the_words_of_the_runtime_as_a_status_or_as_output(words: str) -> None:
    for stream in (Stream(end=End(words)), Stream(words.encode(), b"\r\n")):
        with pytest.raises(engines.Unsupported):
            await started(stream)


@pytest.mark.parametrize("code", [126, 127])
async def test_missing_shell_is_told_by_an_exit_code(code: int) -> None:
    end = End("command terminated with non-zero exit code", Details([Cause("ExitCode", str(code))]))
    with pytest.raises(engines.Unsupported):
        await started(Stream(end=end))


@pytest.mark.parametrize("words", PASSING)
async def test_any_other_failure_may_pass(words: str) -> None:
    with pytest.raises(engines.Unreachable, match="exec: "):
        await started(Stream(end=End(words)))


async def test_program_that_does_not_start_is_not_waited_for() -> None:
    class Silent(Stream):
        async def read(self, most: int) -> bytes:
            await asyncio.sleep(10)
            return b""

    with pytest.raises(engines.Unreachable, match=r"within 0\.2 s"):
        await started(Silent())


@pytest.mark.parametrize(
    "status", [b"{}", b"not json", b'{"details": {"causes": [{"reason": "ExitCode", "message": "x"}]}}']
)
def test_status_that_says_no_exit_code(status: bytes) -> None:
    assert entrance.streams._end(status).exit_code == 0
