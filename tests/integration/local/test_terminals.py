"""The WebSocket of terminals, as a page uses it, and as nobody should."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from sandbox.v1 import access_pb2 as pb
from sandbox.v1 import access_pb2_grpc

from tests.support.ports import free_port
from tests.support.service import Service
from tests.support.waiting import PATIENCE, eventually
from tests.support.working import refusal

PROTOCOL = "terminal.sandbox.v1"
HELLO = {"rows": 24, "cols": 80, "offset": 0}
OTHER = "https://console.example.com"
HELD = 6.0
"""Long enough for a browser to come back on a busy machine."""
LEAVES = "(trap 'echo gone >>gone; exit' HUP; while :; do sleep 0.1; done) & echo $((1+1))-ready"
"""A job that says when its shell was hung up."""


class Browser:
    """A browser with the page of one service."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.url = url
        self.headers = {"Origin": url}
        self.session = session

    async def ticket(self, sandbox_id: str, **headers: str) -> aiohttp.ClientResponse:
        path = f"{self.url}/terminals/default/{sandbox_id}/ticket"
        return await self.session.post(path, headers={**self.headers, **headers})

    async def attach(self, ticket: str, **headers: str) -> aiohttp.ClientWebSocketResponse:
        protocols = (PROTOCOL, f"ticket.{ticket}")
        return await self.session.ws_connect(
            f"{self.url}/attach", protocols=protocols, headers={**self.headers, **headers}
        )

    async def open(self, sandbox_id: str) -> "Shell":
        ticket = (await (await self.ticket(sandbox_id)).json())["ticket"]
        return await Shell.begin(await self.attach(ticket), HELLO)


class Shell:
    """An attached terminal: what it has shown, what the shell has accepted, and the ticket that leads back."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.shown = b""
        self.accepted = -1
        self.again = ""
        self.ended = ""

    @classmethod
    async def begin(cls, socket: aiohttp.ClientWebSocketResponse, hello: Any) -> "Shell":
        made = cls(socket)
        await socket.send_str(hello if isinstance(hello, str) else json.dumps(hello))
        await made.until(lambda: bool(made.ended or made.again))
        return made

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20 * PATIENCE):
            while not holds():
                message = await self.socket.receive()
                if message.type is aiohttp.WSMsgType.BINARY:
                    self.shown += message.data
                elif message.type is aiohttp.WSMsgType.TEXT:
                    told = json.loads(message.data)
                    self.accepted = told.get("accepted", self.accepted)
                    self.again = told.get("again", self.again)
                    self.ended = told.get("ended", self.ended)
                else:
                    raise AssertionError(f"closed with {self.socket.close_code}")

    async def run(self, line: str, words: str) -> None:
        await self.socket.send_bytes(line.encode() + b"\r")
        await self.until(lambda: words.encode() in self.shown)


def page_of(service: Service) -> str:
    return f"http://{service.env['SANDBOX_ACCESS_LISTEN']}"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    pace = {"terminal_held": HELD, "ticket_for": 120.0}
    env = {"SANDBOX_ACCESS_LISTEN": f"127.0.0.1:{free_port()}", "SANDBOX_ACCESS_ORIGINS": OTHER}
    made = Service(tmp_path_factory.mktemp("service"), env={**env, "SANDBOX_BASE_PACE": json.dumps(pace)})
    try:
        yield made.start()
    finally:
        made.end()


@pytest.fixture(scope="module")
def sandbox(service: Service) -> str:
    with service.client() as client:
        client.create("demo", sandbox_id="terminals")
        client.wait_until("terminals", "RUNNING")
    return "terminals"


@pytest.fixture
async def browser(service: Service) -> AsyncIterator[Browser]:
    async with aiohttp.ClientSession() as session:
        yield Browser(session, page_of(service))


def home(service: Service) -> Path:
    return service.folder / "data" / "sandboxes" / "default" / "terminals" / "volume" / "home"


async def words(browser: Browser, ticket: str) -> str:
    return (await Shell.begin(await browser.attach(ticket), HELLO)).ended


@pytest.mark.slow
async def test_ticket_counts_once_and_no_other_text_does(browser: Browser, sandbox: str, service: Service) -> None:
    ticket = (await (await browser.ticket(sandbox)).json())["ticket"]
    shell = await Shell.begin(await browser.attach(ticket), HELLO)
    await shell.run("echo $((6*7))-answers", "42-answers")
    assert "used before" in await words(browser, ticket)
    assert "not known" in await words(browser, "")
    assert "not known" in await words(browser, ticket[:-4] + "AAAA")
    assert ticket not in service.log.read_text()


@pytest.mark.slow
async def test_ticket_counts_for_its_time(make_service: Callable[..., Service]) -> None:
    env = {"SANDBOX_ACCESS_LISTEN": f"127.0.0.1:{free_port()}", "SANDBOX_BASE_PACE": json.dumps({"ticket_for": 0.2})}
    service = make_service(env=env).start()
    with service.client() as client:
        client.create("demo", sandbox_id="terminals")
        client.wait_until("terminals", "RUNNING")
    async with aiohttp.ClientSession() as session:
        browser = Browser(session, page_of(service))
        late = (await (await browser.ticket("terminals")).json())["ticket"]
        await asyncio.sleep(0.2)
        assert "is over" in await words(browser, late)


@pytest.mark.slow
async def test_only_the_page_gets_tickets_and_only_known_origins_attach(browser: Browser, sandbox: str) -> None:
    for origin in (OTHER, "http://elsewhere.example.com", "null", browser.url + "0"):
        assert (await browser.ticket(sandbox, Origin=origin)).status == 403
    assert (await browser.session.post(f"{browser.url}/terminals/default/{sandbox}/ticket")).status == 403
    assert (await browser.ticket(sandbox, Origin=browser.url.replace("127.0.0.1", "localhost"))).status == 200
    for origin in ("http://elsewhere.example.com", "null"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await browser.attach("any", Origin=origin)
        assert refused.value.status == 403
    assert "not known" in (await Shell.begin(await browser.attach("any", Origin=OTHER), HELLO)).ended
    page = await browser.session.get(f"{browser.url}/terminals/default/{sandbox}")
    assert f"frame-ancestors {OTHER}" in page.headers["Content-Security-Policy"]
    assert (await browser.session.get(f"{browser.url}/static/page.py")).status == 404
    assert (await browser.session.get(f"{browser.url}/static/..%2fpage.py")).status == 404


async def test_sandbox_that_is_unknown_or_does_not_run_is_said(browser: Browser, service: Service) -> None:
    assert "never-was" in (await (await browser.ticket("never-was")).json())["refused"]
    assert (await browser.ticket("Not%20an%20id")).status == 404
    other = f"{browser.url}/terminals/elsewhere/a/ticket"
    assert (await browser.session.post(other, headers=browser.headers)).status == 404
    with service.client() as client:
        client.create("demo", sandbox_id="resting")
        client.wait_until("resting", "RUNNING")
        ticket = (await (await browser.ticket("resting")).json())["ticket"]
        client.stop("resting")
        client.wait_until("resting", "STOPPED")
        assert "STOPPED" in (await (await browser.ticket("resting")).json())["refused"]
        assert "STOPPED" in await words(browser, ticket)
        client.start("resting")
        client.wait_until("resting", "RUNNING")
        assert "incarnation" in await words(browser, ticket)
        client.delete("resting")


@pytest.mark.parametrize(
    "hello",
    [
        "",
        "{",
        "[]",
        "{}",
        {**HELLO, "rows": 0},
        {**HELLO, "cols": 1001},
        {**HELLO, "offset": -1},
        {**HELLO, "rows": True},
    ],
)
async def test_first_message_that_is_none_is_refused(browser: Browser, sandbox: str, hello: Any) -> None:
    ticket = (await (await browser.ticket(sandbox)).json())["ticket"]
    shell = await Shell.begin(await browser.attach(ticket), hello)
    assert shell.ended.startswith("the page sent ")


async def test_too_long_a_message_ends_the_session_and_not_the_shell(browser: Browser, sandbox: str) -> None:
    shell = await browser.open(sandbox)
    await shell.run("kept=kept", "kept=kept")
    await shell.socket.send_bytes(b"x" * 65537)
    with contextlib.suppress(AssertionError):
        await shell.until(lambda: False)
    again = await Shell.begin(await browser.attach(shell.again), {**HELLO, "offset": len(shell.shown)})
    await again.run("echo $kept-there", "kept-there")


@pytest.mark.slow
async def test_browser_comes_back_at_its_offsets_and_nobody_else_ends_its_shell(
    browser: Browser, sandbox: str, service: Service
) -> None:
    shell = await browser.open(sandbox)
    await shell.run(LEAVES, "2-ready")
    await shell.socket.close()
    again = await Shell.begin(await browser.attach(shell.again), {**HELLO, "offset": len(shell.shown)})
    assert again.accepted == shell.accepted > 0
    await asyncio.sleep(HELD * 1.2)
    await again.run("echo $((3*3))-still", "9-still")
    assert b"2-ready" not in again.shown
    assert not (home(service) / "gone").exists()
    await again.socket.close()
    await asyncio.to_thread(eventually, lambda: (home(service) / "gone").exists())
    (home(service) / "gone").unlink()


async def test_terminal_that_the_page_closes_ends_at_once(browser: Browser, sandbox: str, service: Service) -> None:
    shell = await browser.open(sandbox)
    await shell.run(LEAVES, "2-ready")
    await shell.socket.send_str('{"close": true}')
    await shell.until(lambda: shell.ended != "")
    await asyncio.to_thread(eventually, lambda: (home(service) / "gone").exists())
    (home(service) / "gone").unlink()


async def test_size_changes_and_the_end_of_the_shell_is_said_with_its_code(browser: Browser, sandbox: str) -> None:
    shell = await browser.open(sandbox)
    await shell.run("stty size", "24 80")
    await shell.socket.send_str('{"rows": 40, "cols": 132}')
    await shell.run("sleep 0.5; stty size", "40 132")
    await shell.socket.send_bytes(b"exit 7\r")
    await shell.until(lambda: shell.ended != "")
    assert shell.ended == "the shell has ended with exit code 7"


@pytest.mark.slow
async def test_without_the_page_there_is_no_ticket(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    with service.client() as client:
        client.create("demo", sandbox_id="plain")
        assert client.wait_until("plain", "RUNNING").ttyd_url == ""
    async with grpc.aio.insecure_channel(service.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await access_pb2_grpc.SandboxAccessStub(channel).OpenTerminal(pb.OpenTerminalRequest(sandbox_id="plain"))
    assert refusal(refused.value)[:2] == ("FAILED_PRECONDITION", "TERMINAL_NOT_SERVED")


@pytest.mark.slow
def test_page_is_served_at_another_port_where_the_next_one_is_taken(make_service: Callable[..., Service]) -> None:
    service = make_service(env={"SANDBOX_ACCESS_LISTEN": "auto"})
    with socket.create_server(("127.0.0.1", service.port + 1)), service.start().client() as client:
        client.create("demo", sandbox_id="paged")
        url = client.wait_until("paged", "RUNNING").ttyd_url
    assert url.startswith("http://127.0.0.1:") and f":{service.port + 1}/" not in url


def test_port_of_the_page_that_was_named_and_is_taken_is_said(make_service: Callable[..., Service]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        service = make_service(env={"SANDBOX_ACCESS_LISTEN": listen}).start(wait=False)
        assert service.process is not None and service.process.wait(timeout=20 * PATIENCE) != 0
    assert f"access-listen: {listen} cannot be had" in service.log.read_text()
