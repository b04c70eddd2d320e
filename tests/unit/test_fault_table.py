"""Every row of the fault table in tests/FAULTS.md has a test, marked with the row's number."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROW = re.compile(r"^\| (\d+) \| .+ \| .+ \| (yes|not yet: .+) \|$", re.MULTILINE)


def rows() -> dict[int, bool]:
    """Returns whether each row of the table can be tested, by its number."""
    found = ROW.findall((TESTS / "FAULTS.md").read_text())
    return {int(number): testable == "yes" for number, testable in found}


def numbers(node: ast.AST) -> list[int]:
    """Returns the numbers in every `pytest.mark.fault(number)` under `node`."""
    calls = [one for one in ast.walk(node) if isinstance(one, ast.Call)]
    return [ast.literal_eval(one.args[0]) for one in calls if ast.unparse(one.func) == "pytest.mark.fault"]


def marks() -> Iterator[int]:
    """Yields the numbers on the tests of every test module, on the module as a whole or on one of its tests."""
    for path in [*TESTS.rglob("test_*.py"), TESTS / "contract" / "suite.py"]:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
                yield from numbers(node.value)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for decorator in node.decorator_list:
                    yield from numbers(decorator)


def test_rows_are_numbered_in_order() -> None:
    lines = [line for line in (TESTS / "FAULTS.md").read_text().splitlines() if re.match(r"\| \d", line)]
    assert len(rows()) == len(lines)
    assert list(rows()) == list(range(1, len(lines) + 1))


def test_every_testable_row_has_a_test() -> None:
    tested = Counter(marks())
    assert [number for number, testable in rows().items() if testable and not tested[number]] == []


def test_every_mark_names_a_row() -> None:
    assert set(marks()) - rows().keys() == set()
