"""Prints each row of tests/FAULTS.md and each failpoint of the service with the tests marked for it: `make faults`.

Exits 1 if a row that can be tested or a failpoint has no test, or a mark names neither.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from sandbox_server import failpoints

TESTS = Path(__file__).parent
ROW = re.compile(r"^\| (\d+) \| (.+) \| .+ \| (?:yes|not yet: (.+)) \|$", re.MULTILINE)

Tests = Mapping[int | str, Sequence[str]]
"""The tests that are marked with the number of a row or the name of a failpoint."""


class Row(NamedTuple):
    """A fault and its number, or a failpoint with its name. `missing`: why it cannot be tested yet, or empty."""

    name: int | str
    fault: str
    missing: str


def rows() -> list[Row]:
    """Returns the rows of the table in their order. Raises ValueError if a line of the table is no row."""
    text = (TESTS / "FAULTS.md").read_text()
    found = [Row(int(number), fault, missing) for number, fault, missing in ROW.findall(text)]
    lines = re.findall(r"^\| *\d.*$", text, re.MULTILINE)
    if [row.name for row in found] != list(range(1, len(lines) + 1)):
        raise ValueError("tests/FAULTS.md: each row needs four columns, and the next number")
    return found


def crashes() -> list[Row]:
    """Returns a row for each failpoint."""
    return [Row(name, "the service is killed here", "") for name in sorted(failpoints.NAMES)]


class _Marks:
    """A plugin of pytest that collects the marked tests, the parameters of a test as one."""

    def __init__(self) -> None:
        self.tests: dict[int | str, list[str]] = defaultdict(list)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            test = item.nodeid.partition("[")[0]
            for mark in (*item.iter_markers("fault"), *item.iter_markers("crash")):
                if test not in self.tests[mark.args[0]]:
                    self.tests[mark.args[0]].append(test)


def marked() -> Tests:
    """Returns the marked tests of every suite. Collects them with pytest."""
    marks = _Marks()
    # Without pytest's own report, and so without the options for it.
    words = ["--collect-only", "-p", "no:terminal", "-o", "addopts=--strict-markers --import-mode=importlib"]
    code = pytest.main([*words, str(TESTS)], plugins=[marks])
    if code is not pytest.ExitCode.OK:
        raise ValueError(f"the tests cannot be collected: {code!r}")
    return marks.tests


def failures(table: Sequence[Row], tests: Tests) -> Iterator[str]:
    """Yields what is missing, a line each."""
    for row in table:
        if not row.missing and not tests.get(row.name):
            yield f"{row.name} has no test: {row.fault}"
    for name, marked in tests.items():
        if name not in {row.name for row in table}:
            yield f"{', '.join(marked)}: there is neither a row nor a failpoint {name}"


def main() -> None:
    """Prints the table, and exits 1 with the failures on standard error if there are any."""
    table, tests = [*rows(), *crashes()], marked()
    for row in table:
        print(f"{row.name:>3}  {row.fault}" + (f"  (not yet: {row.missing})" if row.missing else ""))
        for test in tests.get(row.name, ()):
            print(f"       {test}")
    sys.exit("\n".join(failures(table, tests)) or 0)


if __name__ == "__main__":
    main()
