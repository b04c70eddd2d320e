"""Breaks one line after the other and says whether a test notices: `python -m scripts.mutants COUNT [SEED] [PACKAGE ...]`.

Works on a copy of the tree. Prints a Markdown table; exits with 1 if any mutant survives all the tests of its package.
"""

import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SERVER = Path("server/sandbox_server")
WITHIN = 900
"""Seconds for the tests of one mutant. Tests that take longer have noticed the mutant: it made them hang."""
UNIT, INTEGRATION = "tests/unit", "tests/integration"
TESTS = {
    "domain": (
        f"{UNIT}/domain",
        f"{UNIT}/test_resync.py",
        f"{UNIT}/test_manager.py",
        f"{UNIT}/test_runs.py",
        f"{INTEGRATION}/test_bad_input.py",
        f"{INTEGRATION}/kubernetes_scripted/test_contract.py",
    ),
    "feed": (
        f"{UNIT}/test_feed.py",
        f"{UNIT}/test_feed_wait.py",
        f"{UNIT}/test_history.py",
        f"{UNIT}/test_catalogue.py",
        f"{UNIT}/test_listing.py",
        f"{INTEGRATION}/test_log.py",
    ),
    "store": (
        f"{UNIT}/test_database_urls.py",
        f"{UNIT}/test_connection.py",
        f"{INTEGRATION}/test_store.py",
        f"{INTEGRATION}/test_log.py",
        f"{INTEGRATION}/test_lists.py",
        f"{INTEGRATION}/test_stored.py",
        f"{INTEGRATION}/test_changed_fields.py",
        f"{INTEGRATION}/test_commands.py",
    ),
    "reconciler": (
        f"{UNIT}/test_queue.py",
        f"{UNIT}/test_resync.py",
        f"{UNIT}/test_runs.py",
        f"{INTEGRATION}/kubernetes_scripted",
    ),
    "rpc": (
        UNIT,
        f"{INTEGRATION}/test_bad_input.py",
        f"{INTEGRATION}/test_service.py",
        f"{INTEGRATION}/test_security.py",
    ),
    "engines/local": (f"{INTEGRATION}/local",),
    "engines/kubernetes": (UNIT, f"{INTEGRATION}/kubernetes_scripted"),
}
"""What tests each package, the quickest first."""

OPPOSITES: dict[type[ast.cmpop], str] = {
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}


@dataclass(frozen=True)
class Mutant:
    """One expression or statement of a file, and what replaces it."""

    package: str
    path: Path
    node: ast.expr | ast.stmt
    replacement: str

    def apply(self, source: str) -> str:
        """The file with the replacement in it."""
        lines = source.encode().splitlines(keepends=True)
        first, last = self.node.lineno - 1, (self.node.end_lineno or self.node.lineno) - 1
        before, after = lines[first][: self.node.col_offset], lines[last][self.node.end_col_offset or 0 :]
        lines[first : last + 1] = [before + self.replacement.encode() + after]
        return b"".join(lines).decode()


def mutants(package: str, path: Path) -> Iterator[Mutant]:
    """Everything that can be broken in a file: comparisons, conditions, `and` and `or`, calls that stand alone."""
    source = (ROOT / path).read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            left, right = (ast.unparse(one) for one in (node.left, node.comparators[0]))
            yield Mutant(package, path, node, f"({left} {OPPOSITES[type(node.ops[0])]} {right})")
        elif isinstance(node, ast.BoolOp):
            word = " or " if isinstance(node.op, ast.And) else " and "
            yield Mutant(package, path, node, f"({word.join(f'({ast.unparse(one)})' for one in node.values)})")
        elif isinstance(node, ast.If | ast.IfExp | ast.While) and not isinstance(node.test, ast.Compare | ast.BoolOp):
            yield Mutant(package, path, node.test, f"(not ({ast.unparse(node.test)}))")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await):
            yield Mutant(package, path, node, "pass")


def survives(mutant: Mutant, tree: Path) -> bool:
    """Whether the tests of its package pass with the mutant in the tree."""
    target = tree / mutant.path
    original = target.read_text()
    target.write_text(mutant.apply(original))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *TESTS[mutant.package]]
    # The copy's code, where this interpreter would find that of the tree it belongs to.
    search = ":".join(str(tree / one) for one in ("server", "client", "generated", "."))
    try:
        done = subprocess.run(
            command, cwd=tree, env=os.environ | {"PYTHONPATH": search}, timeout=WITHIN, capture_output=True
        )
    except subprocess.TimeoutExpired:
        return False
    finally:
        target.write_text(original)
    return done.returncode == 0


def main(count: int, seed: int, packages: Sequence[str]) -> int:
    """Tries so many mutants, the same number of each package; returns the exit code."""
    chosen = random.Random(seed)
    survivors = 0
    print("| file | line | mutant | noticed |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".venv", ".git", "__pycache__", ".*_cache"))
        for package in packages:
            paths = sorted((ROOT / SERVER / package).glob("*.py"))
            found = [mutant for path in paths for mutant in mutants(package, path.relative_to(ROOT))]
            for mutant in chosen.sample(found, count // len(packages)):
                survived = survives(mutant, tree)
                survivors += survived
                said = ast.unparse(mutant.node).partition("\n")[0].replace("|", "\\|")
                row = (f"{mutant.path.relative_to(SERVER)}", mutant.node.lineno, f"`{said}` → `{mutant.replacement}`")
                print(f"| {row[0]} | {row[1]} | {row[2]} | {'NO' if survived else 'yes'} |", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int((sys.argv[2:] or ["0"])[0]), sys.argv[3:] or [*TESTS]))
