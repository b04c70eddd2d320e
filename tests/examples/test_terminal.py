"""The page of terminals in a real browser: what somebody types and sees, and what a cut, a restart and an end look like."""

import json
from collections.abc import Callable, Iterator

import grpc
import pytest
from sandbox.v1 import access_pb2, access_pb2_grpc
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support import browser
from tests.support.ports import free_port
from tests.support.relay import Relay
from tests.support.service import Service
from tests.support.waiting import eventually

MakeService = Callable[..., Service]
TOKEN = "token-of-the-only-tenant"
TENANTS = json.dumps({"tenants": [{"name": "team-a", "namespaces": ["default"], "tokens": [TOKEN]}]})
LINES = """
const lines = [], buffer = terminal.buffer.active;
for (let at = 0; at < buffer.length; at++) lines.push(buffer.getLine(at).translateToString(true));
return lines.join("\\n").trimEnd();
"""
SIZE = "return new Promise((done) => setTimeout(() => done(`${terminal.rows} ${terminal.cols}`), 1000))"
"""The size of the terminal, once a change of the window has had its effect."""


class Screen:
    """The page, as somebody sits in front of it."""

    def __init__(self, chrome: webdriver.Chrome, url: str) -> None:
        self.chrome = chrome
        chrome.get("about:blank")
        chrome.get(url)

    def type(self, *keys: str) -> None:
        self.chrome.find_element(By.CSS_SELECTOR, ".xterm-helper-textarea").send_keys(*keys)

    def run(self, line: str) -> None:
        self.type(line, Keys.ENTER)

    def text(self) -> str:
        return str(self.chrome.execute_script(LINES))

    def notice(self) -> str:
        return self.chrome.find_element(By.ID, "notice").text

    def show(self, ticket: str) -> None:
        self.chrome.find_element(By.ID, "ticket").send_keys(ticket, Keys.ENTER)

    def asks(self) -> bool:
        return self.chrome.find_element(By.ID, "ask").is_displayed()

    def ready(self) -> "Screen":
        """Waits for the prompt of the shell."""
        eventually(lambda: self.text() != "")
        return self


@pytest.fixture(scope="module")
def chrome() -> Iterator[webdriver.Chrome]:
    with browser.opened() as chrome:
        yield chrome


@pytest.fixture
def relayed(make_service: MakeService) -> Iterator[tuple[Service, Relay]]:
    """A service whose page browsers reach through a relay that can be cut."""
    port = free_port()
    relay = Relay(port)
    env = {"SANDBOX_ACCESS_LISTEN": f"127.0.0.1:{port}", "SANDBOX_ACCESS_URL": f"http://{relay.address}"}
    try:
        yield make_service(env=env).start(), relay
    finally:
        relay.close()


def created(service: Service, name: str) -> str:
    """Creates a sandbox and returns the URL of its terminal."""
    with service.client() as client:
        client.create("demo", sandbox_id=name)
        return client.wait_until(name, "RUNNING").ttyd_url


def test_what_is_typed_is_answered_at_the_size_of_the_window_and_the_end_is_said(
    chrome: webdriver.Chrome, relayed: tuple[Service, Relay]
) -> None:
    service, _ = relayed
    screen = Screen(chrome, created(service, "typed")).ready()
    screen.run("echo $((6*7))-answers; pwd")
    eventually(lambda: "42-answers" in screen.text())
    chrome.set_window_size(900, 500)
    small = chrome.execute_script(SIZE)
    screen.run("stty size")
    eventually(lambda: f"\n{small}\n" in screen.text())
    chrome.set_window_size(1200, 800)
    large = chrome.execute_script(SIZE)
    assert large != small
    screen.run("stty size")
    eventually(lambda: f"\n{large}\n" in screen.text())
    # Once it prints, it is what Ctrl-C interrupts.
    screen.run("sh -c 'echo sleeps-$((1+1)); exec sleep 1000'")
    eventually(lambda: "sleeps-2" in screen.text())
    screen.type(Keys.CONTROL, "c")
    screen.type(Keys.NULL)
    screen.run("echo interrupted-$((1+1))")
    eventually(lambda: "interrupted-2" in screen.text())
    with service.client() as client:
        client.stop("typed")
    eventually(lambda: "the sandbox was stopped" in screen.notice())


def test_cut_and_a_restart_of_the_service_lose_nothing_and_type_nothing_twice(
    chrome: webdriver.Chrome, relayed: tuple[Service, Relay]
) -> None:
    service, relay = relayed
    screen = Screen(chrome, created(service, "cut")).ready()
    screen.run("n=0; while [ $n -lt 400 ]; do n=$((n+1)); echo line-$n; sleep 0.02; done")
    eventually(lambda: "line-20\n" in screen.text())
    relay.cut()
    eventually(lambda: "line-80\n" in screen.text())
    service.kill()
    eventually(lambda: "Coming back" in screen.notice())
    screen.run("echo typed-during-the-cut >>once")
    service.start()
    eventually(lambda: "line-400" in screen.text())
    shown = [line for line in screen.text().splitlines() if line.startswith("line-")]
    assert shown == [f"line-{n}" for n in range(1, 401)]
    screen.run("echo $(wc -l <once) times")
    eventually(lambda: "1 times" in screen.text())


def test_ticket_is_needed_where_calls_need_a_token_and_counts_once(
    chrome: webdriver.Chrome, make_service: MakeService, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.json"
    tokens.write_text(TENANTS)
    listen = f"127.0.0.1:{free_port()}"
    service = make_service("--token-file", str(tokens), env={"SANDBOX_ACCESS_LISTEN": listen})
    service.start(wait=False)
    with service.client(token=TOKEN) as client:
        client.create("demo", sandbox_id="mine")
        client.wait_until("mine", "RUNNING")
    with grpc.insecure_channel(service.address) as channel:
        request = access_pb2.OpenTerminalRequest(sandbox_id="mine")
        call = access_pb2_grpc.SandboxAccessStub(channel).OpenTerminal
        opened = call(request, metadata=[("authorization", f"Bearer {TOKEN}")])
    screen = Screen(chrome, opened.url)
    eventually(screen.asks)
    screen.show("no-ticket")
    eventually(lambda: "not known" in screen.notice())
    screen = Screen(chrome, opened.url)
    eventually(screen.asks)
    screen.show(opened.ticket)
    screen.ready().run("echo $((6*7))-answers")
    eventually(lambda: "42-answers" in screen.text())
    assert opened.ticket not in chrome.current_url
    screen = Screen(chrome, opened.url)
    eventually(screen.asks)
    screen.show(opened.ticket)
    eventually(lambda: "used before" in screen.notice())
    assert opened.ticket not in service.log.read_text()
