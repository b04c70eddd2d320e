"""The table: what was measured, against what, and whether that is what it should be."""

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

README = Path(__file__).parent / "README.md"
HEAD = "| what; and the baseline | service | baseline | ratio | goal | reached |\n|---|---|---|---|---|---|"


@dataclass(frozen=True, slots=True)
class Figure:
    """`subject` and `baseline` in `unit`; `goal` is what their ratio should keep, at most or (`least`) at least."""

    name: str
    subject: float
    baseline: float
    unit: str
    goal: float
    least: bool = False

    def row(self) -> str:
        ratio = self.subject / self.baseline
        reached = ratio >= self.goal if self.least else ratio <= self.goal
        sign = "≥" if self.least else "≤"
        return (
            f"| {self.name} | {self.subject:,.1f} {self.unit} | {self.baseline:,.1f} {self.unit} | "
            f"**{ratio:.2f}** | {sign} {self.goal} | {'yes' if reached else 'no'} |"
        )


def report(everything: Mapping[str, Callable[[], Iterator[Figure]]], names: Sequence[str], table: str) -> None:
    """Measures what is named, or everything, which is then kept in the README between the markers of `table`."""
    print(HEAD)
    lines = []
    for name in names or everything:
        for figure in everything[name]():
            lines.append(figure.row())
            print(lines[-1], flush=True)
    packages = ", ".join(f"{one} {version(one)}" for one in ("grpcio", "protobuf", "uvloop", "sqlalchemy", "msgspec"))
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}"
    below = f"\n{time.strftime('%Y-%m-%d')}; {machine}, Python {platform.python_version()}; {packages}."
    print(below)
    if not names:
        begin, end = f"<!-- {table} -->", f"<!-- /{table} -->"
        before, _, rest = README.read_text().partition(begin)
        README.write_text("\n".join([before + begin, HEAD, *lines, below, end + rest.partition(end)[2]]))
