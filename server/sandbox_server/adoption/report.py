"""What an adoption says: what became of each object, for people and for programs."""

import dataclasses
import json as _json
from collections import Counter
from collections.abc import Sequence

from sandbox_server.domain import words
from sandbox_server.domain.adoption import Entry, Outcome

NOW = (
    "The pods of what is adopted are made anew at once, by templates of the service: from then on --undo cannot give a "
    "sandbox back. The files of a Deployment are first copied out of its pod to a disk, while it runs; its sandbox can be given back "
    "until it has run, or stopped, with the copy. The Deployment is removed then."
)
AT_NEXT_START = (
    "The pods of what is adopted go on as they are. Until a sandbox is started, stopped or changed, which makes its pod anew, "
    "--undo gives it back as it was; from then on it cannot. Deployments are skipped."
)
DRY = "Nothing was changed."


def json(entries: Sequence[Entry], warning: str, *, dry: bool) -> str:
    """Returns the report for programs: an object with the entries, and how many of each outcome there are."""
    counts = Counter(one.outcome for one in entries)
    report = {
        "dry_run": dry,
        "point_of_no_return": warning,
        "counts": {one.value: counts[one] for one in Outcome},
        "results": [dataclasses.asdict(one) | {"outcome": one.outcome.value} for one in entries],
    }
    return _json.dumps(report, indent=2) + "\n"


def text(entries: Sequence[Entry], *, dry: bool) -> str:
    """Returns the report for people: a line for each entry, and one that counts them."""
    outcomes = max((len(one.outcome.value) for one in entries), default=0)
    lines: list[str] = []
    for one in entries:
        facts = [f"project {one.project}", one.desired, one.public_url, one.ttyd_url] if one.project else []
        said = ", ".join(filter(None, [one.why, *facts]))
        lines.append(f"{one.outcome.value:{outcomes}}  {one.kind} {one.name}: {words.printable(said)}")
        lines += [f"{'':{outcomes}}  note: {words.printable(note)}" for note in one.notes]
    counts = Counter(one.outcome for one in entries)
    counted = ", ".join(f"{counts[one]} {one.value}" for one in Outcome if counts[one])
    lines += ["", f"{len(entries)} objects{': ' if counted else ''}{counted}"]
    return "\n".join([*lines, *([DRY] if dry else [])]) + "\n"
