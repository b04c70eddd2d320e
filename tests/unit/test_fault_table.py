"""Every row of the fault table and every failpoint has a test that is marked with it."""

import re
import subprocess
import sys

import pytest

from tests import faults
from tests.faults import Row

pytestmark = pytest.mark.slow


def test_every_row_and_every_failpoint_has_a_test_and_every_mark_names_one() -> None:
    # A process of its own: pytest does not collect within a test.
    done = subprocess.run([sys.executable, "-m", "tests.faults"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    printed = re.findall(r"^ {0,2}(\w+)  ", done.stdout, re.MULTILINE)
    assert printed == [str(row.name) for row in (*faults.rows(), *faults.crashes())]


def test_a_row_without_a_test_and_a_mark_without_a_row_are_failures() -> None:
    table = [Row(1, "a kill", ""), Row(2, "a cut", ""), Row(3, "two replicas", "several replicas"), Row("here", "", "")]
    assert list(faults.failures(table, {1: ["test_a"], "here": ["test_a"], 4: ["test_b", "test_c"]})) == [
        "2 has no test: a cut",
        "test_b, test_c: there is neither a row nor a failpoint 4",
    ]
    assert list(faults.failures(table, {1: ["test_a"], 2: ["test_a"], "here": ["test_b"]})) == []
