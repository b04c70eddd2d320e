"""The logs of a sandbox by both Python clients and `sandboxctl`, against the live service."""

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from sandbox_client import AsyncClient, Client, LogEnded, LogLines, errors

from tests.support import programs, relay
from tests.support.programs import Program
from tests.support.service import Service
from tests.support.waiting import PATIENCE

COUNT = 'i=0; while [ $i -lt 200 ]; do echo "line $i"; i=$((i+1)); sleep 0.01; done; exec sleep 1000'
ENDLESS = 'i=0; while :; do echo "line $i"; i=$((i+1)); sleep 0.01; done'
NAME = "logs-1"


def lines(count: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(count))


LINES = lines(200)


@pytest.fixture
def between(service: Service) -> Iterator[relay.Relay]:
    with relay.to(service.port) as made:
        yield made


@pytest.fixture
def sandbox(client: Client) -> Iterator[str]:
    client.create("logs", sandbox_id=NAME, command=["/bin/sh", "-c", COUNT])
    client.wait_until(NAME, "RUNNING", timeout=30 * PATIENCE)
    yield NAME
    client.wait_until(client.delete(NAME), "TERMINATED", timeout=30 * PATIENCE)


@pytest.mark.slow
def test_followed_logs_over_a_connection_that_is_cut_again_and_again_have_each_line_once(
    between: relay.Relay, client: Client
) -> None:
    made = client.create("logs", command=["/bin/sh", "-c", ENDLESS])
    client.wait_until(made, "RUNNING", timeout=30 * PATIENCE)
    data = b""
    cuts = 0
    with Client(between.address) as far:
        for part in far.logs(made, follow=True, timeout=60 * PATIENCE):
            if isinstance(part, LogLines):
                data += part.data
                if data.count(b"\n") > 40 * (cuts + 1):
                    cuts += 1
                    between.cut()
                    if cuts == 5:
                        client.stop(made)
            else:
                assert part == LogEnded("SANDBOX_STOPPED")
    assert cuts >= 5
    assert data == lines(data.count(b"\n"))
    # What was printed is kept when the sandbox has stopped.
    assert b"".join(part.data for part in client.logs(made) if isinstance(part, LogLines)) == data
    client.delete(made)


@pytest.mark.slow
async def test_async_logs_go_on_after_a_position_and_end_with_the_process(
    sandbox: str, between: relay.Relay, client: Client
) -> None:
    data = b""
    async with AsyncClient(between.address) as far:
        async for part in far.logs(sandbox, follow=True):
            assert isinstance(part, LogLines)
            data += part.data
            position = part.position
            if b"line 50\n" in data:
                break
        between.cut()
        async for part in far.logs(sandbox, follow=True, after_position=position):
            if isinstance(part, LogEnded):
                break
            assert isinstance(part, LogLines)
            data += part.data
            if data == LINES:
                client.stop(sandbox)
    assert data == LINES


def test_tail_and_what_is_not_kept(sandbox: str, client: Client) -> None:
    for part in client.logs(sandbox, follow=True):
        if isinstance(part, LogLines) and b"line 199\n" in part.data:
            break
    assert b"".join(part.data for part in client.logs(sandbox, tail=2) if isinstance(part, LogLines)).count(b"\n") == 2
    with pytest.raises(errors.FailedPrecondition) as caught:
        list(client.logs(sandbox, previous=True))
    assert caught.value.reason == "NO_OUTPUT_KEPT"


@pytest.mark.slow
def test_sandboxctl_shows_follows_and_leaves(service: Service, sandbox: str, client: Client) -> None:
    env = {**os.environ, "SANDBOX_SERVER": service.address}
    pipe = subprocess.PIPE
    with Program("sandboxctl", "logs", "-f", sandbox, env=env, stdout=pipe, stderr=pipe) as process:
        data = b""
        while data != LINES:
            data += process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30 * PATIENCE) == 130
    shown = programs.run("sandboxctl", "logs", sandbox, "--tail", "3", env=env, text=False)
    assert (shown.returncode, shown.stdout) == (0, b"line 197\nline 198\nline 199\n")
    before = programs.run("sandboxctl", "logs", "--previous", sandbox, env=env)
    assert (before.returncode, "no such process" in before.stderr) == (1, True), before.stderr
    with Program("sandboxctl", "logs", "-f", sandbox, env=env, stdout=pipe, stderr=pipe) as process:
        process.stdout.readline()
        client.stop(sandbox)
        assert process.wait(timeout=30 * PATIENCE) == 0
        assert b"SANDBOX_STOPPED" in process.stderr.read()
