"""Compares the rows of the database of the former system with the cluster and with what is stored, and stores what differs."""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from sandbox_server import app, failpoints, store
from sandbox_server.domain import errors, legacy, lifecycle
from sandbox_server.domain.event import Cause, Kind
from sandbox_server.domain.legacy import Fact, Judged, Place
from sandbox_server.domain.sandbox import Key, Sandbox
from sandbox_server.importing.cluster import Found, look
from sandbox_server.importing.report import Line, Outcome, Report
from sandbox_server.rpc import auth
from sandbox_server.settings import Import

CAUSE = Cause(Kind.MUTATION, "sandbox-server import", method="import")
"""The cause of the events in which sandboxes get their labels."""


async def run(settings: Import) -> Report:
    """Imports, and returns what became of each row, in the order of the ids. A repeat changes nothing.

    The facts about objects that are in the cluster are stored in one transaction; then each sandbox that was made from one
    of them before gets its labels. With `dry_run` nothing is written. Raises ValueError and OSError for what cannot be used,
    and `errors.Unavailable` if the database of the service does not answer.
    """
    if settings.engine != "kubernetes":
        raise ValueError("engine: sandboxes are imported where their objects are: give engine=kubernetes")
    source = await asyncio.to_thread(store.legacy_source.read, settings.source)
    judged = list(legacy.judge(source.rows))
    facts = [one.fact for one in judged if one.fact is not None]
    found = await look(settings, facts, _namespaces(settings))
    there = [fact for fact in facts if isinstance(found[fact.place], str)]
    known: Mapping[Place, Fact] = {}
    sandboxes: Mapping[Place, Sandbox] = {}
    refused: dict[Place, str] = {}
    if not (settings.dry_run and await asyncio.to_thread(_is_empty, settings)):
        opened = store.Store(settings.database, app.cipher(settings), busy_timeout=settings.pace.sqlite_busy_timeout)
        await opened.open(lambda _committed: None)
        try:
            known = await asyncio.to_thread(store.legacy.known, settings.database)
            sandboxes = await _adopted(opened, there)
            if not settings.dry_run:
                await asyncio.to_thread(store.legacy.record, settings.database, there)
                failpoints.hit("imported_facts")
                refused = await _label(opened, there, sandboxes)
        finally:
            await opened.close()
    lines = [_line(one, found, known, sandboxes, refused) for one in judged]
    return Report(lines, source.absent, settings.dry_run)


def _namespaces(settings: Import) -> tuple[str, ...]:
    """Returns the namespaces of all tenants. Raises ValueError for a token file that cannot be used."""
    return settings.namespace_names if settings.token_file is None else auth.read(settings.token_file).namespaces


def _is_empty(settings: Import) -> bool:
    return store.inspect(settings.database).schema is store.Schema.EMPTY


async def _adopted(opened: store.Store, facts: Sequence[Fact]) -> dict[Place, Sandbox]:
    """Returns the live sandboxes whose StatefulSet is at the place of a fact."""
    places = {fact.place for fact in facts}
    _, events = await opened.load()
    live = (event.sandbox for event in events)
    found = {Place(one.namespace, one.objects.stateful_set): one for one in live}
    return {place: sandbox for place, sandbox in found.items() if place in places}


async def _label(opened: store.Store, facts: Sequence[Fact], sandboxes: Mapping[Place, Sandbox]) -> dict[Place, str]:
    """Gives each sandbox the labels of its fact. Returns why some could not get them."""
    refused: dict[Place, str] = {}
    for fact in facts:
        if fact.place in sandboxes:
            try:
                await _give(opened, fact, sandboxes[fact.place].key)
            except errors.Invalid as error:
                refused[fact.place] = str(error)
    return refused


async def _give(opened: store.Store, fact: Fact, key: Key) -> None:
    """Gives a sandbox the labels of its fact, as UpdateSandbox would. Raises `errors.Invalid` for too many labels."""

    def write(reader: store.Reader) -> store.Write:
        last = reader.last(key)
        if last is None:
            raise store.Stale
        before = last.sandbox
        changed = legacy.labelled(before, fact)
        if changed != before:
            changed = lifecycle.on_mutation(
                dataclasses.replace(changed, generation=before.generation + 1), datetime.now(UTC)
            )
        return store.Write(changed, last.sequence, CAUSE)

    while True:
        try:
            await opened.write(write)
        except store.Stale:
            # The service has written to the sandbox meanwhile, or removed it for good.
            if await opened.read(lambda reader: reader.last(key)) is None:
                return
        else:
            return


def _line(
    judged: Judged,
    found: Mapping[Place, Found],
    known: Mapping[Place, Fact],
    sandboxes: Mapping[Place, Sandbox],
    refused: Mapping[Place, str],
) -> Line:
    """Returns what became of a row. `known` and `sandboxes` are of before."""
    row, fact = judged.row, judged.fact
    base = Line(
        outcome=Outcome.SKIPPED,
        id=row.get("legacy_id") or "",
        namespace=row.get("namespace") or "",
        name=row.get("name") or "",
        message=judged.fault,
    )
    if fact is None:
        return base
    kind = found[fact.place]
    if not isinstance(kind, str):
        outcome, message = kind
        return dataclasses.replace(base, outcome=outcome, message=message)
    sandbox, former = sandboxes.get(fact.place), known.get(fact.place)
    changes = () if sandbox is None else _missing(sandbox, fact)
    outcome = Outcome.UNCHANGED if former == fact and not changes else Outcome.UPDATED if former else Outcome.IMPORTED
    return dataclasses.replace(
        base,
        outcome=outcome,
        kind=kind,
        sandbox=sandbox.id if sandbox else "",
        labels=() if fact.place in refused else changes,
        message="; ".join(filter(None, (*_notes(fact), refused.get(fact.place, "")))),
    )


def _missing(sandbox: Sandbox, fact: Fact) -> tuple[str, ...]:
    """Returns the labels that a fact changes of a sandbox."""
    try:
        changed = legacy.labelled(sandbox, fact)
    except errors.Invalid:
        return ()
    return tuple(sorted(name for name, text in changed.spec.labels.items() if sandbox.spec.labels.get(name) != text))


def _notes(fact: Fact) -> list[str]:
    """Returns what a fact does not say, or says in a way that no label can have."""
    notes = [f"it has no {name}" for name, text in (("project", fact.project), ("owner", fact.owner)) if not text]
    if fact.unlabelled:
        notes.append(f"no label can have its text: {', '.join(fact.unlabelled)}")
    return notes
