"""What became of each row of the database of the former system, and how that is printed."""

import enum
import json as _json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sandbox_server.domain import words


class Outcome(enum.Enum):
    """What became of a row. The value is the word for programs."""

    IMPORTED = "imported"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    ABSENT = "absent"
    SKIPPED = "skipped"
    NOT_CHECKED = "not_checked"

    @property
    def word(self) -> str:
        """The word for people."""
        return self.value.replace("_", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What became of a row.

    - `id`: of the row; empty if it has none.
    - `kind`: of the object that it names, such as `StatefulSet`; empty if that is not there, or was not looked for.
    - `sandbox`: the id of the sandbox that was made from the object before; empty if none was.
    - `labels`: those that the sandbox has got now.
    - `message`: why, and the next step.
    """

    outcome: Outcome
    id: str
    namespace: str
    name: str
    kind: str = ""
    sandbox: str = ""
    labels: Sequence[str] = ()
    message: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of all rows. `absent`: the columns that its table does not have, such as `userId or owner`."""

    lines: Sequence[Line]
    absent: Sequence[str]
    dry_run: bool

    @property
    def complete(self) -> bool:
        """Whether it is known of each object if it is there."""
        return all(one.outcome is not Outcome.NOT_CHECKED for one in self.lines)


def json(report: Report) -> str:
    """Returns the report for programs."""
    fields = ("id", "namespace", "name", "kind", "sandbox", "labels", "message")
    rows = [{"outcome": one.outcome.value} | {name: getattr(one, name) for name in fields} for one in report.lines]
    shown = {"dry_run": report.dry_run, "absent_columns": report.absent, "rows": rows}
    return _json.dumps(shown, indent=2) + "\n"


def table(report: Report) -> str:
    """Returns the report for people: a line for each row, and one that counts them."""
    marks = max(len(one.word) for one in Outcome)
    ids = max((len(words.printable(one.id)) for one in report.lines), default=0)
    counts = Counter(one.outcome for one in report.lines)
    counted = ", ".join(f"{counts[one]} {one.word}" for one in Outcome if counts[one])
    lines = [
        f"{one.outcome.word.ljust(marks)}  {words.printable(one.id).ljust(ids)}  {_text(one)}" for one in report.lines
    ]
    lines += ["", f"{len(report.lines)} rows: {counted or 'nothing to import'}"]
    lines += [f"the table has no column {one}" for one in report.absent]
    lines += ["a dry run: nothing was written"] if report.dry_run else []
    return "\n".join(lines) + "\n"


def _text(line: Line) -> str:
    labels = f"sandbox {line.sandbox} gets {', '.join(line.labels)}" if line.labels else ""
    where = f"{line.kind or 'object'} {line.namespace}/{line.name}" if line.name or line.namespace else ""
    return words.printable("; ".join(filter(None, (where, line.message, labels))))
