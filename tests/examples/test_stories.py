"""The examples in every language: built as their page says, each tells the same story, over connections that break."""

import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import examples, relay
from tests.support.service import Service

CUTS_APART = 0.5
"""Seconds. A call reaches the service in between, so that each step is done in the end."""


Tell = Callable[[str], subprocess.Popen[str]]
STORY = examples.block("Callers in other languages")


@pytest.fixture
def service(make_service: Callable[..., Service]) -> Service:
    """A service to which a process that ends at once is never ready."""
    return make_service(env={"SANDBOX_READY_FOR": "1"}).start()


@pytest.fixture
def between(service: Service) -> Iterator[relay.Relay]:
    """A relay to the service that breaks every connection again and again."""
    ended = threading.Event()

    def cut() -> None:
        while not ended.wait(CUTS_APART):
            made.cut()

    with relay.to(service.port) as made:
        cutting = threading.Thread(target=cut, daemon=True)
        cutting.start()
        yield made
        ended.set()
        cutting.join()


@pytest.fixture(scope="session", params=examples.LANGUAGES)
def told(request: pytest.FixtureRequest, build: Callable[[str], Path]) -> Tell:
    """Builds an example, and starts it with the address of a service."""
    folder = build(request.param)
    run = examples.commands(request.param)[-1]

    def tell(address: str) -> subprocess.Popen[str]:
        environment = {**examples.BUILDING, "SANDBOX_SERVER": address}
        return subprocess.Popen(
            ["timeout", "180", "bash", "-ec", run], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
        )

    return tell


def lines(output: str) -> list[str]:
    """Returns the lines of what was printed. Maven writes the codes of colours even where there are none."""
    return re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines()


def test_a_caller_tells_the_story_over_connections_that_break(told: Tell, between: relay.Relay) -> None:
    before = between.connections
    with told(between.address) as process:
        output, _ = process.communicate()
    assert lines(output) == STORY
    assert process.returncode == 0
    assert between.connections - before > 3


def test_a_caller_tells_the_story_across_a_restart_of_the_service(told: Tell, service: Service) -> None:
    with told(service.address) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        service.kill()
        service.start()
        rest, _ = process.communicate()
    assert lines(first + rest) == STORY
    assert process.returncode == 0


def test_each_part_of_the_page_is_an_example() -> None:
    headings = re.findall(r"^## (.+)$", examples.PAGE, re.MULTILINE)
    # The last part is tested by itself.
    assert headings.pop() == "Agents of LangChain"
    assert sorted(one.lower() for one in headings) == examples.LANGUAGES
