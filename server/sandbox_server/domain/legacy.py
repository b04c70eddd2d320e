"""What the database of the former system says of its sandboxes, and what is kept of it.

The cluster shows the objects of a legacy sandbox, but not to whom they belong. A fact is what a row says of one object.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from urllib.parse import urlsplit

from sandbox_server.domain import check, mutations
from sandbox_server.domain.phase import DesiredState
from sandbox_server.domain.sandbox import Sandbox

_PREFIX = "legacy.fullstackagent.io/"
ID, PROJECT, OWNER = f"{_PREFIX}id", f"{_PREFIX}project", f"{_PREFIX}owner"
LABELS = (ID, PROJECT, OWNER)
"""The labels of an adopted sandbox that say whose it was. They have a prefix, so that no object of the cluster gets them."""


class Place(NamedTuple):
    """Where the StatefulSet of a legacy sandbox is or, of an older one, its Deployment."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """What a row says of the object at a place. Texts that the row does not have are empty.

    - `legacy_id`: the id of the row.
    - `title`: the name that people gave the sandbox.
    - `status`: in the words of the former system.
    - `public_url`, `ttyd_url`: without what may be a credential.
    """

    namespace: str
    name: str
    legacy_id: str
    title: str = ""
    project: str = ""
    owner: str = ""
    status: str = ""
    public_url: str = ""
    ttyd_url: str = ""

    @property
    def place(self) -> Place:
        """Where the object is that it is about."""
        return Place(self.namespace, self.name)

    @property
    def labels(self) -> dict[str, str]:
        """The labels of a sandbox that was made from the object. A text that is no value of a label has none."""
        texts = {ID: self.legacy_id, PROJECT: self.project, OWNER: self.owner}
        return {name: text for name, text in texts.items() if text and check.label.fits(text)}

    @property
    def unlabelled(self) -> tuple[str, ...]:
        """The labels that are missing because a text is no value of a label."""
        texts = {ID: self.legacy_id, PROJECT: self.project, OWNER: self.owner}
        return tuple(name for name, text in texts.items() if text and name not in self.labels)


Row = Mapping[str, str | None]
"""A row of the database of the former system, by the names of the fields of `Fact`. A column that is not there has no entry."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A row with its fact, or with what is wrong with it."""

    row: Row
    fact: Fact | None
    fault: str = ""


def judge(rows: Sequence[Row]) -> Iterator[Judged]:
    """Yields each row with its fact, in the order of the ids. Of rows that name one object none is taken."""
    ordered = sorted(
        rows, key=lambda row: (row.get("legacy_id") or "", row.get("namespace") or "", row.get("name") or "")
    )
    ids = Counter(row.get("legacy_id") for row in ordered)
    places: dict[tuple[str | None, str | None], list[str]] = {}
    for row in ordered:
        places.setdefault((row.get("namespace"), row.get("name")), []).append(row.get("legacy_id") or "")
    for row in ordered:
        fault = _fault(row)
        same = places[row.get("namespace"), row.get("name")]
        if not fault and ids[row.get("legacy_id")] > 1:
            fault = "several rows have this id"
        if not fault and len(same) > 1:
            fault = f"several rows name this object: {', '.join(same)}"
        yield Judged(row, None, fault) if fault else Judged(row, _fact(row))


def _fault(row: Row) -> str:
    """Returns what is wrong with a row by itself; empty if nothing is."""
    for name, meant in (("legacy_id", "id"), ("name", "name of a StatefulSet"), ("namespace", "namespace")):
        if not row.get(name):
            return f"it has no {meant}"
    if not check.class_name.fits(row["name"] or ""):
        return f"its name of a StatefulSet is not {check.class_name.takes}"
    if not check.namespace.fits(row["namespace"] or ""):
        return f"its namespace is not {check.namespace.takes}"
    if not row.get("project") and not row.get("owner"):
        return "it has neither a project nor an owner"
    return ""


def _fact(row: Row) -> Fact:
    texts = {name: text or "" for name, text in row.items()}
    urls = {name: _without_credentials(texts[name]) for name in ("public_url", "ttyd_url") if name in texts}
    return Fact(**texts | urls)


def _without_credentials(url: str) -> str:
    """Returns a URL with its host and path alone: a user, a query or a fragment may be a credential. Empty if it is none."""
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}" if parts.scheme and parts.hostname else ""


def labelled(before: Sandbox, fact: Fact) -> Sandbox:
    """Returns the sandbox with the labels of a fact. One that was deleted stays as it is.

    Raises `errors.Invalid` if it has too many labels with them.
    """
    if before.desired is DesiredState.DELETED:
        return before
    return mutations.update(before, replace(before.spec, labels={**before.spec.labels, **fact.labels}))
