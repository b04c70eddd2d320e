"""The files of sandboxes by both Python clients, and `sandboxctl cp`, against the live service."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_client import AsyncClient, Client, errors

from tests.support import relay
from tests.support.service import Service

NAME = "files-1"
ODD = b"od d\n\xff'\"$HOME\\*"


@pytest.fixture(scope="module")
def sandbox(service: Service) -> Iterator[str]:
    with service.client() as client:
        client.create("files", sandbox_id=NAME, command=["sleep", "1000"])
        client.wait_until(NAME, "RUNNING", timeout=30)
        yield NAME
        client.delete(NAME)


@pytest.fixture
def between(service: Service) -> Iterator[relay.Relay]:
    with relay.to(service.port) as made:
        yield made


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


def test_a_write_whose_answer_was_lost_is_made_once(sandbox: str, between: relay.Relay, client: Client) -> None:
    with Client(between.address) as far:
        far.page()
        between.lose_answer_to(b"the-content")
        written = far.files.write(sandbox, "once", b"the-content")
    assert between.connections == 2
    assert client.files.stat(sandbox, "once").etag == written.etag


def test_a_file_that_changes_while_it_is_read_is_not_put_together(
    sandbox: str, between: relay.Relay, client: Client
) -> None:
    client.files.write(sandbox, "changing", bytes(8 << 20))
    with Client(between.address) as far, pytest.raises(errors.Aborted) as caught:
        for number, _ in enumerate(far.files.parts(sandbox, "changing")):
            if number == 3:
                client.files.write(sandbox, "changing", b"\1" * (8 << 20))
                between.cut()
    assert caught.value.reason == "FILE_CHANGED"


async def test_async_files_are_those_of_the_other_client(sandbox: str, service: Service, client: Client) -> None:
    async with AsyncClient(service.address) as far:
        written = await far.files.write(sandbox, b"asynchronous/" + ODD, b"content", parents=True)
        assert written.path.endswith(ODD)
        assert await far.files.read(sandbox, b"asynchronous/" + ODD) == b"content"
        assert [one.path async for one in far.files.list(sandbox, "asynchronous")] == [written.path]
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
