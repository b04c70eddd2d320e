"""Prints each row of tests/FAULTS.md with the tests that are marked for it: `make faults`.

Exits 1 if a row that can be tested has no test, or a mark names no row.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parent
ROW = re.compile(r"^\| (\d+) \| (.+) \| .+ \| (yes|not yet: .+) \|$", re.MULTILINE)

Tests = Mapping[int, Sequence[str]]


class Row(NamedTuple):
    number: int
    fault: str
    testable: str


def rows() -> list[Row]:
    """Returns the rows of the table in their order. Raises ValueError if a line of the table is no row."""
    text = (TESTS / "FAULTS.md").read_text()
    found = [Row(int(number), fault, testable) for number, fault, testable in ROW.findall(text)]
    lines = re.findall(r"^\| *\d.*$", text, re.MULTILINE)
    if [row.number for row in found] != list(range(1, len(lines) + 1)):
        raise ValueError("tests/FAULTS.md: each row needs four columns, and the next number")
    return found


class _Marks:
    """A plugin of pytest that collects the tests of each number, the parameters of a test as one."""

    def __init__(self) -> None:
        self.tests: dict[int, list[str]] = defaultdict(list)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            name = item.nodeid.partition("[")[0]
            for mark in item.iter_markers("fault"):
                if name not in self.tests[mark.args[0]]:
                    self.tests[mark.args[0]].append(name)


def marked() -> Tests:
    """Returns the tests of every suite that are marked with a number, by that number. Collects them with pytest."""
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
        if row.testable == "yes" and not tests.get(row.number):
            yield f"row {row.number} has no test: {row.fault}"
    for number in sorted(tests.keys() - {row.number for row in table}):
        yield f"{', '.join(tests[number])}: there is no row {number}"


def main() -> None:
    """Prints the table, and exits 1 with the failures on standard error if there are any."""
    table, tests = rows(), marked()
    for row in table:
        print(f"{row.number:>3}  {row.fault}" + ("" if row.testable == "yes" else f"  ({row.testable})"))
        for test in tests.get(row.number, ()):
            print(f"       {test}")
    sys.exit("\n".join(failures(table, tests)) or 0)


if __name__ == "__main__":
    main()
