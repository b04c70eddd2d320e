"""The reference of the API: it is what the contract makes, and has every error that the server can send."""

import re
from pathlib import Path

import pytest

from scripts import reference

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RAISED = re.compile(r'errors\.[A-Z]\w+\(\s*"([A-Z_]+)"')
FILES = {
    "api.md": reference.SANDBOX,
    "access.md": reference.ACCESS,
    "adoption-api.md": reference.ADOPTION,
    "snapshots.md": reference.SNAPSHOT,
    "schedules.md": reference.SCHEDULE,
}
NOT_OF_THE_CONTRACT = {"SERVICE_UNKNOWN"}
"""Of the health service."""


@pytest.fixture(scope="module", params=sorted(FILES))
def page(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def contract(page: str) -> reference.Contract:
    return reference.Contract(FILES[page])


@pytest.mark.slow
def test_the_reference_is_what_the_contract_makes(tmp_path: Path) -> None:
    reference.written(tmp_path)
    for name in (*FILES, "errors.md"):
        assert (DOCS / name).read_text() == (tmp_path / name).read_text(), "run `make docs`"


def test_every_reason_that_the_server_raises_is_in_the_reference() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "server").rglob("*.py"))
    raised = set(RAISED.findall(source))
    assert len(raised) > 10
    listed = set(re.findall(r"^\| [A-Z_]+ \| ([A-Z_]+)", (DOCS / "errors.md").read_text(), re.MULTILINE))
    assert raised - listed == NOT_OF_THE_CONTRACT


def test_every_rpc_and_type_has_a_section(contract: reference.Contract, page: str) -> None:
    sections = set(re.findall(r"^### (\w+)$", (DOCS / page).read_text(), re.MULTILINE))
    (service,) = contract.file.service
    assert {one.name for one in service.method} <= sections
    assert {one.name for one in contract.file.enum_type} <= sections
    links = set(re.findall(r"\(#(\w+)\)", (DOCS / page).read_text()))
    assert links <= {one.lower() for one in sections}


def test_errors_of_a_comment_are_read_by_code_and_reason() -> None:
    lines = [
        "  NOT_FOUND    GONE, AWAY: it is gone.",
        "               Look again.",
        "               LOST on `name`: it is lost.",
        "  UNAVAILABLE  the server is not reached.",
        "               Repeat.",
        "",
        "  ABORTED      AFTERWARDS: not a part of the list.",
    ]
    assert reference.failures(lines) == [
        reference.Failure("NOT_FOUND", "GONE", "", "it is gone. Look again."),
        reference.Failure("NOT_FOUND", "AWAY", "", "it is gone. Look again."),
        reference.Failure("NOT_FOUND", "LOST", "`name`", "it is lost."),
        reference.Failure("UNAVAILABLE", "", "", "the server is not reached. Repeat."),
    ]


def test_comment_without_errors_is_refused() -> None:
    with pytest.raises(ValueError, match="no errors in the comment"):
        reference.described("Does something.\n\nAnswers at once.")
