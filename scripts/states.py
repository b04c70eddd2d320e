"""Draws the states of a sandbox as an SVG: a row for each desired state, with the phases that its table can give."""

from collections.abc import Iterator
from dataclasses import dataclass

from sandbox_server.domain import rules
from sandbox_server.domain.phase import DesiredState, Phase
from sandbox_server.domain.rules import Relative

TOWARDS_RUNNING = (Phase.CREATING, Phase.STARTING, Phase.UPDATING)
WIDTH, ROW, GAP, TOP = 960, 150, 64, 46
LEFT, RIGHT = 20, 910
BOX, SPACE, PAD = 108, 16, 14
TOWARDS_END, SETTLED, ERROR = 430, 500, 780
"""The x where the frame of the transitional phases ends, and those where the settled phase and ERROR begin."""

_STYLE = (
    "text{font:13px sans-serif;fill:#1f2933;text-anchor:middle}"
    ".title{text-anchor:end;font-weight:bold}.label{font-size:12px;fill:#52606d}"
    ".row{fill:#f5f7fa;stroke:#9aa5b1}.way{fill:none;stroke:#9aa5b1;stroke-dasharray:4 3}"
    ".phase{fill:#fff;stroke:#3e4c59}.settled{fill:#e3f9e5;stroke:#207227;stroke-width:2}"
    ".error{fill:#ffe3e3;stroke:#ab091e}.arrow{fill:none;stroke:#3e4c59;marker-end:url(#head)}"
)
_HEAD = (
    '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="#3e4c59"/></marker>'
)


def phases(desired: DesiredState) -> list[Phase]:
    """Returns every phase that the table of a desired state can give, in the order of the contract."""
    found: set[Phase] = set()
    for rule in rules.RULES[desired]:
        if isinstance(rule.phase, Phase):
            found.add(rule.phase)
        elif rule.phase is Relative.TOWARDS_RUNNING:
            found.update(TOWARDS_RUNNING)
    return sorted(found, key=lambda phase: phase.value)


def svg() -> str:
    """Returns the drawing."""
    rows = {desired: _Row(desired, TOP + number * (ROW + GAP)) for number, desired in enumerate(DesiredState)}
    height = TOP + len(rows) * (ROW + GAP) - GAP + LEFT
    parts = [part for row in rows.values() for part in row.draw()]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
            "<title>The states of a sandbox</title>",
            f"<style>{_STYLE}</style><defs>{_HEAD}</defs>",
            f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
            *parts,
            *_calls(*(row.top for row in rows.values())),
            "</svg>\n",
        ]
    )


@dataclass(frozen=True)
class _Row:
    """The row of a desired state: its transitional phases, the settled phase that they lead to, and ERROR."""

    desired: DesiredState
    top: int

    def draw(self) -> Iterator[str]:
        settled = rules.SETTLED[self.desired]
        way = [phase for phase in phases(self.desired) if phase not in (settled, Phase.ERROR)]
        middle, bottom = self.top + 80, self.top + 110
        begin = TOWARDS_END - 2 * PAD - len(way) * (BOX + SPACE) + SPACE
        yield f'<rect class="row" x="{LEFT}" y="{self.top}" width="{RIGHT - LEFT}" height="{ROW}" rx="8"/>'
        yield _text("title", RIGHT - 14, self.top + 26, f"desired {self.desired.name}")
        yield f'<rect class="way" x="{begin}" y="{self.top + 50}" width="{TOWARDS_END - begin}" height="60" rx="6"/>'
        for number, phase in enumerate(way):
            yield from _box("phase", begin + PAD + number * (BOX + SPACE), middle, phase.name)
        yield from _box("settled", SETTLED, middle, settled.name)
        yield from _box("error", ERROR, middle, Phase.ERROR.name)
        yield _arrow(f"M{TOWARDS_END} {middle}H{SETTLED}")
        yield _arrow(f"M{ERROR} {middle + 9}H{SETTLED + BOX}")
        yield _text("label", (SETTLED + BOX + ERROR) // 2, middle + 25, "the cause is gone")
        low = bottom + 22
        yield _arrow(
            f"M{TOWARDS_END - 40} {bottom}Q{TOWARDS_END - 40} {low} {TOWARDS_END + 10} {low}"
            f"H{ERROR + 20}Q{ERROR + 54} {low} {ERROR + 54} {middle + 18}"
        )
        yield _text("label", SETTLED + BOX // 2, low - 5, "a cause")
        if settled is not Phase.TERMINATED:
            yield _arrow(f"M{SETTLED + BOX} {middle - 9}H{ERROR}")
            yield _text("label", (SETTLED + BOX + ERROR) // 2, middle - 15, "a cause")
        again = {Phase.RUNNING: "UpdateEnvVars", Phase.TERMINATED: "Delete of a kept disk"}.get(settled)
        if again:
            back, high = TOWARDS_END - PAD - BOX // 2, self.top + 34
            yield _arrow(
                f"M{SETTLED + 54} {middle - 18}Q{SETTLED + 54} {high} {SETTLED} {high}"
                f"H{back + 40}Q{back} {high} {back} {middle - 18}"
            )
            yield _text("label", (back + SETTLED + 54) // 2, high - 6, again)


def _calls(running: int, stopped: int, deleted: int) -> Iterator[str]:
    """Returns the arrows of the calls that lead from one desired state to another."""
    first = TOWARDS_END - PAD - 3 * BOX - 2 * SPACE + BOX // 2
    yield _arrow(f"M{first} 14V{running + 62}")
    yield _text("label", first + 52, 28, "CreateSandbox")
    for x, begin, end, call in (
        (200, running + ROW, stopped, "Stop"),
        (300, stopped, running + ROW, "Start"),
        (200, stopped + ROW, deleted, "Delete"),
    ):
        yield _arrow(f"M{x} {begin}V{end}")
        yield _text("label", x + 26, (begin + end) // 2 + 4, call)
    side = RIGHT + 22
    yield _arrow(f"M{RIGHT} {running + 75}H{side}V{deleted + 75}H{RIGHT}")
    yield _text("label", RIGHT - 4, running + ROW + GAP // 2 + 4, "Delete")


def _box(kind: str, left: int, middle: int, name: str) -> Iterator[str]:
    yield f'<rect class="{kind}" x="{left}" y="{middle - 18}" width="{BOX}" height="36" rx="6"/>'
    yield _text("name", left + BOX // 2, middle + 5, name)


def _arrow(path: str) -> str:
    return f'<path class="arrow" d="{path}"/>'


def _text(kind: str, x: int, y: int, words: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{words}</text>'
