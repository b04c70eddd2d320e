"""Every row of the fault table in tests/FAULTS.md has a test, marked with the row's number."""

import re
import subprocess
import sys

from tests import faults
from tests.faults import Row


def test_every_row_that_can_be_tested_has_a_test_and_every_mark_names_a_row() -> None:
    # A process of its own: pytest does not collect within a test.
    done = subprocess.run([sys.executable, "-m", "tests.faults"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    printed = re.findall(r"^ *(\d+)  ", done.stdout, re.MULTILINE)
    assert printed == [str(row.number) for row in faults.rows()]


def test_a_row_without_a_test_and_a_mark_without_a_row_are_failures() -> None:
    table = [Row(1, "a kill", "yes"), Row(2, "a cut", "yes"), Row(3, "two replicas", "not yet: several replicas")]
    assert list(faults.failures(table, {1: ["test_a"], 4: ["test_b", "test_c"]})) == [
        "row 2 has no test: a cut",
        "test_b, test_c: there is no row 4",
    ]
    assert list(faults.failures(table, {1: ["test_a"], 2: ["test_a"]})) == []
