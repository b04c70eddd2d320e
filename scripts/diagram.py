"""Draws the state diagram, rules and remedies of docs/lifecycle.md from the domain's tables.

`python scripts/diagram.py docs/lifecycle.md` rewrites what stands between the markers.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from sandbox_server.domain import remedy, rules
from sandbox_server.domain.phase import DesiredState, Phase

BEGIN, END = "<!-- state diagram -->", "<!-- /state diagram -->"
_TOWARDS_RUNNING = (Phase.CREATING, Phase.STARTING, Phase.UPDATING)
_WISHES = (
    (DesiredState.RUNNING, DesiredState.STOPPED, "Stop"),
    (DesiredState.STOPPED, DesiredState.RUNNING, "Start"),
    (DesiredState.RUNNING, DesiredState.DELETED, "Delete"),
    (DesiredState.STOPPED, DesiredState.DELETED, "Delete"),
)


def block() -> str:
    """The diagram, the rules and the remedies as Markdown, between their markers."""
    return "\n".join([BEGIN, "```mermaid", *_diagram(), "```", "", *_rules(), *_remedies(), END])


def _phases(desired: DesiredState) -> list[Phase]:
    """Every phase that a table can give, in the order of the contract."""
    found: set[Phase] = set()
    for rule in rules.RULES[desired]:
        found |= {rule.phase} if isinstance(rule.phase, Phase) else set(_TOWARDS_RUNNING)
    return sorted(found, key=lambda phase: phase.value)


def _diagram() -> Iterator[str]:
    yield "stateDiagram-v2"
    yield "    [*] --> CREATING: CreateSandbox"
    for desired in DesiredState:
        phases, settled = _phases(desired), rules.SETTLED[desired]
        yield f'    state "desired {desired.name}" as want_{desired.name} {{'
        error = f"ERROR_{desired.name}"
        yield f"        {error}: ERROR"
        for phase in phases:
            if phase not in (settled, Phase.ERROR):
                yield f"        {phase.name} --> {settled.name}"
            if phase not in (Phase.ERROR, Phase.TERMINATED):
                yield f"        {phase.name} --> {error}: a cause"
        yield f"        {error} --> {settled.name}: the cause is gone"
        yield "    }"
    for before, after, wish in _WISHES:
        yield f"    want_{before.name} --> want_{after.name}: {wish}"
    yield "    RUNNING --> UPDATING: UpdateEnvVars"
    yield "    TERMINATED --> TERMINATING: Delete of a kept disk"
    yield "    TERMINATED --> [*]"


def _rules() -> Iterator[str]:
    for desired, table in rules.RULES.items():
        yield f"Desired {desired.name}: the first that holds."
        yield ""
        yield "| when | phase | reason |"
        yield "|---|---|---|"
        for rule in table:
            phase = rule.phase.name if isinstance(rule.phase, Phase) else rule.phase.value
            yield f"| {rule.when} | {phase} | {rule.reason.name if rule.reason else 'what is observed'} |"
        yield ""


def _remedies() -> Iterator[str]:
    yield "Who can remove the cause that a reason names, as `remedy` in the status says:"
    yield ""
    yield "| reason | remedy | why |"
    yield "|---|---|---|"
    for reason, (who, why) in remedy.REMEDIES.items():
        yield f"| {reason.name} | {'' if who is remedy.Remedy.UNSPECIFIED else who.name} | {why} |"
    yield ""


def drawn(text: str) -> str:
    """`text` with the block between the markers made anew. Raises ValueError if it has no markers."""
    before, _, rest = text.partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise ValueError(f"there is no {BEGIN} ... {END} in it")
    return before + block() + after


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(drawn(page.read_text()))
