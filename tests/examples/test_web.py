"""The page in examples/web, in a real browser, which calls the service through a real Envoy as docs/web.md says."""

import contextlib
import functools
import http.client
import http.server
import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families
from sandbox_client import Client
from selenium import webdriver

from tests.support import browser, relay
from tests.support.browser import Page
from tests.support.certificates import certificate
from tests.support.envoy import Envoy, tls
from tests.support.examples import ENVIRONMENT, MARKS, ROOT
from tests.support.once import once
from tests.support.ports import free_port
from tests.support.service import Service
from tests.support.waiting import PATIENCE, eventually

HEARTBEAT = "1"
SLEEP = ["sleep", "1000000"]
FIRST, SECOND = "token-of-the-first-tenant", "token-of-the-second-tenant"
METHODS = "/sandbox.v1.SandboxService"

_FROM_THE_FIRST = b"\0\0\0\0\2\x28\0"  # A WatchStatusRequest with after_sequence 0, and before it its length.
WHOLE_HISTORY = (
    f"POST {METHODS}/WatchStatus HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/grpc-web+proto\r\n"
    f"content-length: {len(_FROM_THE_FIRST)}\r\n\r\n"
).encode() + _FROM_THE_FIRST
"""A watch of everything since the beginning, as a browser sends it."""

MakeEnvoy = Callable[[int], Envoy]


@pytest.fixture(scope="session")
def built(copied: Path) -> Path:
    """The page and Envoy, made by the commands of docs/web.md."""
    browser.installed()
    text = (ROOT / "docs" / "web.md").read_text()
    found = re.search(r"```\n(npm install.*?)```", text, re.DOTALL)
    assert found is not None
    *build, run = found[1].splitlines()
    assert run == ".venv/bin/envoy -c envoy.yaml --disable-hot-restart"

    def make() -> None:
        for command in build:
            subprocess.run(["bash", "-ec", command], cwd=copied / "web", env=ENVIRONMENT, check=True)

    once(MARKS / "web", make)
    return copied / "web"


@pytest.fixture(scope="module")
def chrome(built: Path) -> Iterator[webdriver.Chrome]:
    with browser.opened() as chrome:
        yield chrome


@pytest.fixture
def service(make_service: Callable[..., Service]) -> Service:
    """A service with quick heartbeats, which end what the page does not know yet after a resumption."""
    return make_service(env={"SANDBOX_HEARTBEAT": HEARTBEAT}).start()


@pytest.fixture
def make_envoy(built: Path, tmp_path: Path) -> Iterator[MakeEnvoy]:
    made: list[Envoy] = []

    def make(upstream: int) -> Envoy:
        made.append(Envoy(tmp_path, built / ".venv" / "bin" / "envoy", built, upstream))
        return made[-1]

    yield make
    for envoy in made:
        envoy.kill()


@pytest.fixture
def envoy(make_envoy: MakeEnvoy, service: Service) -> Envoy:
    return make_envoy(service.port).start()


@pytest.fixture
def page(chrome: webdriver.Chrome, envoy: Envoy) -> Page:
    """The page, watching."""
    page = Page(chrome, envoy.origin).watch()
    eventually(lambda: page.says("Watching."))
    return page


def shows(page: Page, sandbox: str, *words: str) -> Callable[[], bool]:
    return lambda: all(word in page.rows().get(sandbox, "") for word in words)


def history(client: Client) -> list[int]:
    return [event.status.sequence for event in client.events(oldest_first=True)]


def test_the_page_lists_sandboxes_and_shows_what_happens_to_them(
    chrome: webdriver.Chrome, envoy: Envoy, client: Client
) -> None:
    chrome.get_log("browser")
    before = client.create("demo", sandbox_id="before", command=SLEEP)
    client.wait_until(before, "RUNNING")
    page = Page(chrome, envoy.origin).watch()
    eventually(shows(page, "before", "demo", "RUNNING", "READY", "the pod is ready"))
    assert page.sequences() == []
    after = client.create("demo", sandbox_id="after", command=SLEEP)
    eventually(shows(page, "after", "RUNNING"))
    client.stop(after)
    eventually(shows(page, "after", "STOPPED", "POD_GONE"))
    assert list(page.rows()) == ["after", "before"]
    client.delete(after)
    eventually(lambda: list(page.rows()) == ["before"])
    # Nothing that the page does is against its policy.
    assert chrome.get_log("browser") == []


def test_the_page_says_why_a_sandbox_is_in_error_and_who_has_to_act(page: Page, client: Client) -> None:
    client.create("demo", sandbox_id="broken", command=["/bin/sh", "-c", "exit 3"])
    eventually(shows(page, "broken", "ERROR", "CRASH_LOOP", "you have to act", "exit code 3"), within=20)


def test_no_event_is_missing_or_repeated_when_the_proxy_and_the_service_are_killed(
    page: Page, envoy: Envoy, service: Service, client: Client
) -> None:
    made = client.create("demo", sandbox_id="lasting", command=SLEEP)
    eventually(shows(page, "lasting", "RUNNING"))
    envoy.kill()
    eventually(lambda: page.says("Connecting again.", "The service cannot be reached"))
    client.wait_until(client.stop(made), "STOPPED")
    envoy.start()
    eventually(lambda: page.says("Watching."), within=20)
    eventually(shows(page, "lasting", "STOPPED"))
    service.kill()
    eventually(lambda: page.says("Connecting again.", "The service cannot be reached"))
    service.start()
    client.wait_until(client.start(made), "RUNNING")
    eventually(shows(page, "lasting", "RUNNING"), within=20)
    client.wait_until(client.delete(made), "TERMINATED")
    eventually(lambda: page.sequences() == history(client))
    assert page.rows() == {}


def test_a_service_that_stops_says_so_and_the_watch_goes_on_when_it_is_back(page: Page, service: Service) -> None:
    assert service.process is not None
    service.process.terminate()
    eventually(lambda: page.has_said("Connecting again.", "SHUTTING_DOWN: "))
    service.terminate()
    service.start()
    eventually(lambda: page.says("Watching."), within=40)


def test_a_silent_stream_is_opened_again_where_it_was(
    chrome: webdriver.Chrome, make_envoy: MakeEnvoy, service: Service, client: Client
) -> None:
    with relay.to(service.port) as between:
        envoy = make_envoy(int(between.address.rpartition(":")[2])).start()
        page = Page(chrome, envoy.origin).watch()
        eventually(lambda: page.says("Watching."))
        between.hold_answers()
        made = client.create("demo", sandbox_id="unseen", command=SLEEP)
        client.wait_until(made, "RUNNING")
        eventually(lambda: page.says("Connecting again."))
        assert page.rows() == {}
        between.cut()
        eventually(shows(page, "unseen", "RUNNING"), within=20)
        eventually(lambda: page.sequences() == history(client))


def test_a_snapshot_replaces_a_history_that_the_service_does_not_have(
    page: Page, service: Service, client: Client, make_service: Callable[..., Service]
) -> None:
    client.create("demo", sandbox_id="former", command=SLEEP)
    eventually(shows(page, "former", "RUNNING"))
    service.kill()
    other = make_service(env=service.env)
    other.port, other.address = service.port, service.address
    other.start()
    eventually(lambda: page.rows() == {}, within=20)
    client.create("demo", sandbox_id="latter", command=SLEEP)
    eventually(shows(page, "latter", "RUNNING"), within=20)
    assert list(page.rows()) == ["latter"]


def test_a_server_that_cannot_be_reached_is_said_until_it_can(
    chrome: webdriver.Chrome, envoy: Envoy, service: Service
) -> None:
    page = Page(chrome, envoy.origin)
    envoy.kill()
    service.kill()
    page.watch()
    eventually(lambda: page.says("Connecting again.", "The service cannot be reached"))
    envoy.start()
    eventually(
        lambda: page.says("Connecting again.", "The service cannot be reached", "upstream connect error"), within=20
    )
    service.start()
    eventually(lambda: page.says("Watching."), within=40)
    assert not page.says("cannot be reached")


class Secured:
    """A service with tokens, behind an Envoy, with TLS on both ways."""

    def __init__(self, make_service: Callable[..., Service], make_envoy: MakeEnvoy, folder: Path) -> None:
        name = x509.DNSName("localhost")
        self.authority, key = certificate(folder / "service", "service", served=name)
        chain, page_key = certificate(folder / "page", "page", served=name)
        tokens = folder / "tokens.json"
        tenants = [
            {"name": name, "namespaces": [name], "tokens": [token]}
            for name, token in (("first", FIRST), ("second", SECOND))
        ]
        tokens.write_text(json.dumps({"tenants": tenants}))
        tokens.chmod(0o600)
        self._metrics = f"127.0.0.1:{free_port()}"
        self.service = make_service(
            *("--tls-cert", str(self.authority), "--tls-key", str(key), "--token-file", str(tokens)),
            *("--metrics-listen", self._metrics),
        ).start(wait=False)
        self.envoy = make_envoy(self.service.port)
        downstream = tls("Downstream", **{"/etc/envoy/tls.crt": str(chain), "/etc/envoy/tls.key": str(page_key)})
        upstream = tls("Upstream", **{"/etc/envoy/ca.crt": str(self.authority), "sandbox.example.com": "localhost"})
        self.envoy.secure(downstream, upstream, "localhost")

    def client(self, token: str) -> Client:
        address = f"localhost:{self.service.port}"
        return Client(address, token=token, ca_file=self.authority, contact_timeout=60 * PATIENCE)

    def open_watches(self) -> float:
        with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=5) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        found = (one for family in families for one in family.samples if one.name == "sandbox_calls_open")
        return next((one.value for one in found if one.labels["method"] == "WatchStatus"), 0)


@pytest.fixture
def secured(make_service: Callable[..., Service], make_envoy: MakeEnvoy, tmp_path: Path) -> Secured:
    return Secured(make_service, make_envoy, tmp_path)


def test_a_token_decides_what_the_page_shows_and_a_wrong_one_is_said(
    chrome: webdriver.Chrome, secured: Secured
) -> None:
    for token, name in ((FIRST, "of-first"), (SECOND, "of-second")):
        with secured.client(token) as client:
            client.create("demo", sandbox_id=name, command=SLEEP)
    secured.envoy.start()
    page = Page(chrome, secured.envoy.origin)
    for wrong in ("", "wrong-token"):
        page.watch(wrong)
        eventually(lambda: page.says("Not watching.", "UNAUTHENTICATED: "))
    page.watch(FIRST)
    eventually(lambda: page.says("Watching.") and list(page.rows()) == ["of-first"])
    eventually(lambda: "Tenant first, local engine" in chrome.find_element("id", "who").text)
    page.watch(SECOND)
    eventually(lambda: page.says("Watching.") and list(page.rows()) == ["of-second"])
    page.watch("wrong-token")
    eventually(lambda: page.says("Not watching.", "UNAUTHENTICATED: "))
    assert page.rows() == {}


def test_more_tabs_watch_over_http_2_than_a_browser_has_connections_and_closed_ones_end_on_the_service(
    chrome: webdriver.Chrome, secured: Secured
) -> None:
    secured.client(FIRST).page()
    secured.envoy.start()
    first, tabs = chrome.current_window_handle, 8
    for _ in range(tabs):
        chrome.switch_to.new_window("tab")
        Page(chrome, secured.envoy.origin).watch(FIRST)
    eventually(lambda: secured.open_watches() == tabs)
    chrome.close()
    eventually(lambda: secured.open_watches() == tabs - 1)
    for handle in set(chrome.window_handles) - {first}:
        chrome.switch_to.window(handle)
        chrome.close()
    chrome.switch_to.window(first)
    eventually(lambda: secured.open_watches() == 0)


def test_envoy_calls_no_service_whose_certificate_has_another_name(chrome: webdriver.Chrome, secured: Secured) -> None:
    secured.client(FIRST).page()
    context = secured.envoy.cluster["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"]
    context["match_typed_subject_alt_names"][0]["matcher"]["exact"] = "another.example.com"
    secured.envoy.start()
    page = Page(chrome, secured.envoy.origin).watch(FIRST)
    eventually(lambda: page.says("Connecting again.", "The service cannot be reached"))
    assert secured.open_watches() == 0


def test_browsers_that_read_nothing_hold_no_other_one_up(
    chrome: webdriver.Chrome, envoy: Envoy, service: Service, client: Client
) -> None:
    """All of them share a connection from Envoy to the service, and what they do not read stays in it."""
    made = client.create("demo", sandbox_id="busy", command=SLEEP)
    labels = {f"label-{number}": 60 * "x" for number in range(50)}
    for turn in range(800):
        client.update(made, labels={**labels, "turn": str(turn)})
    with contextlib.ExitStack() as silent:
        for _ in range(24):
            connection = silent.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", envoy.port))
            connection.sendall(WHOLE_HISTORY)
        time.sleep(3)
        page = Page(chrome, envoy.origin).watch()
        eventually(shows(page, "busy", "RUNNING"))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def elsewhere(page: Path, folder: Path, server: str) -> Iterator[str]:
    """Serves the page from another origin than the calls'."""
    shutil.copytree(page / "dist", folder)
    text = (folder / "index.html").read_text()
    (folder / "index.html").write_text(
        text.replace('name="sandbox-server" content="/"', f'name="sandbox-server" content="{server}"')
    )
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", free_port()), functools.partial(_Quiet, directory=str(folder))
    ) as made:
        serving = threading.Thread(target=made.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        serving.join()


def test_only_a_page_of_an_origin_in_the_configuration_can_call(
    chrome: webdriver.Chrome, make_envoy: MakeEnvoy, service: Service, built: Path, tmp_path: Path
) -> None:
    envoy = make_envoy(service.port)
    with (
        elsewhere(built, tmp_path / "allowed", envoy.origin) as allowed,
        elsewhere(built, tmp_path / "other", envoy.origin) as other,
    ):
        envoy.allow(allowed)
        envoy.start()
        page = Page(chrome, allowed).watch()
        eventually(lambda: page.says("Watching."))
        page = Page(chrome, other).watch()
        eventually(lambda: page.says("Connecting again.", "The service cannot be reached"))
        answers = {origin: preflight(envoy, origin) for origin in (allowed, other)}
    assert answers[allowed]["access-control-allow-origin"] == allowed
    assert "access-control-allow-origin" not in answers[other]
    assert "access-control-allow-credentials" not in answers[allowed]


def preflight(envoy: Envoy, origin: str) -> dict[str, str]:
    """Returns the headers of the answer to a browser that asks whether a page of an origin may call."""
    with contextlib.closing(http.client.HTTPConnection("localhost", envoy.port, timeout=10)) as connection:
        asked = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }
        connection.request("OPTIONS", f"{METHODS}/WatchStatus", headers=asked)
        return {name.lower(): value for name, value in connection.getresponse().getheaders()}


@pytest.mark.parametrize(
    "path",
    [
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/Check",
        f"{METHODS}/../x",
    ],
)
def test_only_the_service_of_sandboxes_is_passed_on(envoy: Envoy, path: str) -> None:
    with contextlib.closing(http.client.HTTPConnection("localhost", envoy.port, timeout=10)) as connection:
        connection.request("POST", path, headers={"content-type": "application/grpc-web+proto"})
        answer = connection.getresponse()
        assert answer.status == 404 or answer.headers["grpc-status"] == "12"
