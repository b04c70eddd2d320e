"""Draws the watch of docs/watching.md, and copies the programs of examples/ into the page.

`python scripts/watching.py docs/watching.md` rewrites the block below each line `<!-- examples/... -->`, and the drawing.
"""

import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
DRAWING = "watching.svg"
LANGUAGES = {".py": "python", ".ts": "ts", ".go": "go"}
PROGRAM = re.compile(r"(<!-- (examples/\S+) -->\n)```.*?\n```\n", re.DOTALL)

CALL, MESSAGE, LOST, LOG = "call", "message", "lost", "log"
STEPS = (
    (CALL, 'WatchStatus {project: "demo"}', ""),
    (MESSAGE, "9   status demo-1 RUNNING", "the snapshot: the last status"),
    (MESSAGE, "7   status demo-2 STOPPED", "of each matching sandbox, once"),
    (MESSAGE, "12  snapshot_complete", "count and heartbeat_seconds; from here on"),
    (MESSAGE, "13  status demo-1 STOPPING", "keep the sequence of each message"),
    (MESSAGE, "13  heartbeat", "after 15 s without anything else to send"),
    (LOST, "the connection is lost", ""),
    (LOG, "14  demo-1 STOPPED", "what happens meanwhile is in the log"),
    (CALL, 'WatchStatus {project: "demo", after_sequence: 13}', "on any replica, after any time within the history"),
    (MESSAGE, "14  status demo-1 STOPPED", "nothing missing, nothing twice, no snapshot"),
    (MESSAGE, "15  status demo-2 STARTING", "changed_fields: phase, reason, generation, ..."),
)
"""What is drawn, the words on it, and those beside it."""

WIDTH, TOP, STEP, CALLER, SERVICE, BESIDE = 960, 64, 36, 90, 540, 565
_STYLE = (
    "text{font:13px sans-serif;fill:#1f2933}.name{font-weight:bold;text-anchor:middle}"
    ".words,.line{font-family:monospace;font-size:12px}.words{text-anchor:middle}.beside{font-size:12px;fill:#52606d}"
    ".life{stroke:#9aa5b1;stroke-dasharray:4 3}.call{stroke:#3e4c59;stroke-width:2;marker-end:url(#head)}"
    ".message{stroke:#207227;marker-end:url(#head)}.lost{stroke:#ab091e;stroke-width:2}.log{fill:#fff;stroke:#207227}"
)
_HEAD = (
    '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="#3e4c59"/></marker>'
)


def svg() -> str:
    """Returns the drawing."""
    bottom = TOP + len(STEPS) * STEP
    height = bottom + 20
    parts = [part for number, step in enumerate(STEPS) for part in _drawn(TOP + number * STEP + 18, *step)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
            "<title>A watch: snapshot, marker, events, heartbeat, and a resume after a lost connection</title>",
            f"<style>{_STYLE}</style><defs>{_HEAD}</defs>",
            f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
            *(_text("name", x, 30, name) for x, name in ((CALLER, "caller"), (SERVICE, "service"))),
            *(f'<path class="life" d="M{x} 42V{bottom}"/>' for x in (CALLER, SERVICE)),
            *parts,
            "</svg>\n",
        ]
    )


def _drawn(y: int, kind: str, words: str, beside: str) -> Iterator[str]:
    middle = (CALLER + SERVICE) // 2
    if kind == CALL:
        yield f'<path class="call" d="M{CALLER} {y}H{SERVICE}"/>'
    elif kind == MESSAGE:
        yield f'<path class="message" d="M{SERVICE} {y}H{CALLER}"/>'
    elif kind == LOST:
        yield f'<path class="lost" d="M{middle - 120} {y - 7}l14 14m0 -14l-14 14"/>'
    else:
        yield f'<rect class="log" x="{SERVICE - 160}" y="{y - 18}" width="150" height="24" rx="4"/>'
    if kind == MESSAGE:
        yield _text("line", CALLER + 120, y - 6, words)
    else:
        x, up = (SERVICE - 85, 2) if kind == LOG else (middle, -5 if kind == LOST else 6)
        yield _text("words", x, y - up, words)
    yield _text("beside", BESIDE, y + 4, beside)


def _text(kind: str, x: int, y: int, words: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" xml:space="preserve">{escape(words)}</text>' if words else ""


def written(text: str) -> str:
    """Returns the text of the page with the programs as they are."""

    def program(found: re.Match[str]) -> str:
        path = ROOT / found[2]
        return f"{found[1]}```{LANGUAGES[path.suffix]}\n{path.read_text()}```\n"

    return PROGRAM.sub(program, text)


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(written(page.read_text()))
    (page.parent / DRAWING).write_text(svg())
