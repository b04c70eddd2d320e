"""What the README and the other pages tell a reader to do works, and what they claim is so."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sandboxctl.__main__ as sandboxctl
from google.protobuf import json_format, message_factory
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server.domain import remedy
from sandbox_server.domain.phase import Phase, Reason

from tests.support.programs import Program
from tests.support.service import Service
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "examples" / "README.md", ROOT / "tests" / "FAULTS.md"]
)
ADDRESS = re.compile(r"(127\.0\.0\.1|localhost):50051")


def lines(first_word: str) -> list[list[str]]:
    """Returns the words of every command in a code block of the README that begins with `first_word`."""
    found = re.findall(rf"^(?:\$ )?({first_word} .*)$", README, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


def cells(text: str) -> list[list[str]]:
    """Returns the cells of every row of a table in `text`."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


@pytest.mark.slow
def test_the_first_minute_works(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_SERVER", service.address)
    commands = [words[1:] for words in lines("sandboxctl")]
    assert [words[0] for words in commands] == ["create", "list", "env", "stop", "start", "exec", "watch", "delete"]
    watching = None
    for words in commands:
        if words[0] == "watch":
            watching = Program("sandboxctl", *words, stdout=subprocess.DEVNULL)
            continue
        with pytest.raises(SystemExit) as ended:
            sandboxctl.main(words)
        assert ended.value.code == 0, words
    assert watching is not None
    # A watch of one sandbox ends with the sandbox.
    assert watching.wait(timeout=30 * PATIENCE) == 0


@pytest.mark.slow
def test_the_python_example_works(service: Service) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    told: list[tuple[int, pb.SandboxStatus]] = []
    printed: list[bytes] = []

    class Enough(Exception):
        pass

    def read_one(*values: Any) -> None:
        match values:
            case [output]:
                printed.append(output)
            case [sequence, status]:
                told.append((sequence, status))
                raise Enough

    with pytest.raises(Enough):
        exec(ADDRESS.sub(service.address, example), {"print": read_one})
    ((output,), ((sequence, status),)) = printed, told
    assert output.startswith(b"hello\n/")
    assert sequence > 0
    assert status.phase == pb.PHASE_RUNNING


def test_the_calls_of_grpcurl_are_calls_of_the_contract() -> None:
    methods = pb.DESCRIPTOR.services_by_name["SandboxService"].methods_by_name
    calls = lines("grpcurl")
    assert len(calls) == 2
    for words in calls:
        service, _, method = words[-1].partition("/")
        assert service == "sandbox.v1.SandboxService"
        body = words[words.index("-d") + 1] if "-d" in words else "{}"
        json_format.Parse(body, message_factory.GetMessageClass(methods[method].input_type)())


def test_buf_calls_the_service_by_reflection(service: Service) -> None:
    (words,) = lines("buf")
    program = Path(sys.executable).parent / words[0]
    done = subprocess.run(
        [program, *(ADDRESS.sub(service.address, word) for word in words[1:])],
        cwd=ROOT / "protos",
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout or "{}").keys() <= {"sandboxes", "nextPageToken", "sequence"}


def test_the_six_causes_are_what_a_real_control_plane_shows() -> None:
    rows = cells(README)[2:]
    assert len(rows) == 6
    measured = [row[:3] for row in cells((ROOT / "docs" / "kubernetes.md").read_text())]
    for cause, phase, reason, who in rows:
        assert [cause, phase, reason] in measured
        assert Phase[phase]
        assert remedy.of(Reason[reason]).name == who


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_target_and_link_is_there(page: Path) -> None:
    text = page.read_text()
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= set(targets)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if not link.startswith("https://"):
            path, _, heading = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            if heading:
                headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
                assert heading in [one.lower().replace(" ", "-") for one in headings], link
