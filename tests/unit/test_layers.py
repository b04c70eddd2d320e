"""Rules about imports that are lists of what is allowed; import-linter holds those of what is not."""

import ast
import itertools
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "server" / "sandbox_server"
CLIENT = ROOT / "client"

# Of the standard library, what would let the law do I/O, read a clock, wait, or draw lots.
IMPURE = {"asyncio", "io", "logging", "os", "pathlib", "random", "secrets", "socket", "subprocess", "threading", "time"}
# Distributions of the base install and what they are imported as.
BASE = {
    "googleapis-common-protos": {"google"},
    "grpcio": {"grpc"},
    "grpcio-status": {"grpc_status"},
    "protobuf": {"google"},
    "pyyaml": {"yaml"},
    "rich": {"rich"},
    "typer": {"typer"},
}


def modules(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found, f"{folder} holds no modules"
    return found


def trees(paths: list[Path]) -> Iterator[tuple[Path, ast.AST]]:
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            yield path, node


def imports(paths: list[Path]) -> set[tuple[str, str]]:
    """Each module's name beside the full name of everything it imports."""
    found = set()
    for path, node in trees(paths):
        if isinstance(node, ast.Import):
            found |= {(path.name, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            found.add((path.name, node.module or ""))
    return found


def outside(found: set[tuple[str, str]], *allowed: str) -> list[tuple[str, str]]:
    """Those that are neither of the standard library nor within an allowed package."""
    return sorted(
        (module, name)
        for module, name in found
        if name.partition(".")[0] not in sys.stdlib_module_names
        and not any(name == package or name.startswith(f"{package}.") for package in allowed)
    )


def test_the_domain_is_the_standard_library_alone() -> None:
    found = imports(modules(SERVER / "domain"))
    # `from sandbox_server.domain import x` names the package; anything else of the server is another layer.
    assert outside(found, "sandbox_server.domain") == []


@pytest.mark.slow
def test_ownership_is_asked_in_one_module() -> None:
    asked = {
        str(path.relative_to(SERVER))
        for path, node in trees(modules(SERVER))
        if isinstance(node, ast.Compare)
        for side in (node.left, *node.comparators)
        if isinstance(side, ast.Attribute) and side.attr == "owner"
    }
    assert asked == {"domain/ownership.py"}


@pytest.mark.slow
def test_the_domain_does_no_io_and_knows_no_clock() -> None:
    law = modules(SERVER / "domain")
    assert [pair for pair in imports(law) if pair[1].partition(".")[0] in IMPURE] == []
    awaits = [path.name for path, node in trees(law) if isinstance(node, ast.Await | ast.AsyncFunctionDef)]
    clocks = [
        (path.name, node.attr)
        for path, node in trees(law)
        if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today"}
        if isinstance(node.value, ast.Name) and node.value.id in {"datetime", "date"}
    ]
    opened = [
        path.name
        for path, node in trees(law)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"open", "print"}
    ]
    assert (awaits, clocks, opened) == ([], [], [])


@pytest.mark.fault(41)
def test_leases_know_the_clock_of_the_database_and_the_monotonic_one_alone() -> None:
    files = [*modules(SERVER / "leases"), SERVER / "store" / "leases.py", SERVER / "domain" / "lease.py"]
    clocks = {
        node.attr
        for _, node in trees(files)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in {"time", "datetime"}
    }
    assert clocks == {"monotonic"}


SECONDS_OUTSIDE_OF_PACE = {
    # Bounds of what others ask for or say.
    "CENTURY",
    "DISORDER",
    "GRACE_PERIOD_MOST",
    "PATIENCE",
    "WAIT_MOST",
    # A rate, with a clock of its own in its test.
    "EACH",
    # Time-outs of one question, after which nothing is done.
    "ANSWER",
    "PROBE_MOST",
    "READ_MOST",
    # Of a command, which nothing of the service waits for.
    "LOCKED_AGAIN",
    # The order of work on the event loop.
    "AFTER_THE_ANSWER",
    "TICK",
    "TURN",
}


@pytest.mark.slow
def test_module_constants_in_seconds_are_fields_of_pace_but_for_those_that_are_no_pace() -> None:
    found = {
        target.id
        for path in modules(SERVER)
        for before, after in itertools.pairwise(ast.parse(path.read_text()).body)
        for target in (before.targets if isinstance(before, ast.Assign) else ())
        if isinstance(target, ast.Name) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if str(after.value.value).startswith("Seconds")
    }
    assert found == SECONDS_OUTSIDE_OF_PACE


def test_settings_need_pydantic_and_nothing_of_the_server_but_the_domain_and_failpoints() -> None:
    own = ("domain", "failpoints", "settings")
    allowed = ("pydantic", "pydantic_settings", *(f"sandbox_server.{one}" for one in own))
    assert outside(imports(modules(SERVER / "settings")), *allowed) == []


@pytest.mark.slow
def test_the_base_install_is_enough_for_the_client() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {line.partition(">=")[0] for line in project["dependencies"]} == BASE.keys()
    allowed = set().union(*BASE.values()) | {"sandbox", "sandbox_client", "sandboxctl"}
    # `sandboxctl top` loads its screen itself, and says which extra is missing. The backend of Deep Agents is an extra.
    beyond = {(path, name.partition(".")[0]) for path, name in outside(imports(modules(CLIENT)), *allowed)}
    assert beyond == {("screen.py", "textual"), ("langchain.py", "deepagents")}


@pytest.mark.parametrize("folder", [SERVER, CLIENT], ids=["server", "client"])
def test_no_module_is_named_for_nothing(folder: Path) -> None:
    assert [path for path in modules(folder) if path.stem in {"utils", "util", "helpers", "common", "misc"}] == []


@pytest.mark.slow
def test_no_test_module_imports_from_another() -> None:
    found = []
    for path, node in trees(modules(ROOT / "tests")):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        parts = [part for name in names if name.startswith("tests.") for part in name.split(".")]
        if any(part == "conftest" or part.startswith("test_") for part in parts):
            found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == [], "what tests share is in tests/support"


@pytest.mark.slow
def test_health_command_imports_nothing_that_only_serving_needs() -> None:
    """A probe runs the command every few seconds."""
    script = "import sys, sandbox_server.__main__, sandbox_server.rpc.probe; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"sqlalchemy", "sqlmodel", "alembic", "uvloop", "aiohttp"} & set(done.stdout.split())
