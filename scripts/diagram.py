"""Draws the state diagram of docs/lifecycle.md, and its rules and remedies, from the domain's tables.

`python scripts/diagram.py docs/lifecycle.md` rewrites what stands between the markers, and the drawing beside it.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from sandbox_server.domain import remedy, rules
from sandbox_server.domain.phase import Phase
from sandbox_server.domain.rules import Relative

from scripts import states

BEGIN, END = "<!-- state diagram -->", "<!-- /state diagram -->"
DRAWING = "lifecycle.svg"


def block() -> str:
    """Returns the diagram, the rules and the remedies as Markdown, between their markers."""
    return "\n".join([BEGIN, f"![The states of a sandbox]({DRAWING})", "", *_rules(), *_remedies(), END])


def _rules() -> Iterator[str]:
    for desired, table in rules.RULES.items():
        yield f"Desired {desired.name}: the first that holds."
        yield ""
        yield "| when | phase | reason |"
        yield "|---|---|---|"
        for rule in table:
            phase = rule.phase.name if isinstance(rule.phase, Phase) else rule.phase.value
            yield f"| {rule.when} | {phase} | {_reason(rule)} |"
        yield ""


def _reason(rule: rules.Rule) -> str:
    if rule.phase is Relative.UNCHANGED:
        return rule.phase.value
    return rule.reason.name if rule.reason else "what is observed"


def _remedies() -> Iterator[str]:
    yield "Who can remove the cause that a reason names, as `remedy` in the status says:"
    yield ""
    yield "| reason | remedy | why |"
    yield "|---|---|---|"
    for reason, (who, why) in remedy.REMEDIES.items():
        yield f"| {reason.name} | {'' if who is remedy.Remedy.UNSPECIFIED else who.name} | {why} |"
    yield ""


def drawn(text: str) -> str:
    """Returns `text` with a new block between the markers. Raises ValueError if it has no markers."""
    before, _, rest = text.partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise ValueError(f"there is no {BEGIN} ... {END} in it")
    return before + block() + after


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(drawn(page.read_text()))
    (page.parent / DRAWING).write_text(states.svg())
