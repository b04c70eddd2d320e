"""What an informer remembers when an event comes twice, late, or after the answer to a write."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sandbox_server import engines
from sandbox_server.domain.pace import Pace
from sandbox_server.engines.kubernetes import client, observe
from sandbox_server.engines.kubernetes.cache import Cache
from sandbox_server.engines.kubernetes.informer import Informer
from sandbox_server.engines.kubernetes.objects import EVENT, OBJECT, Object

NAME = "a-service"


def item(version: int, value: str, uid: str = "first", name: str = NAME) -> dict[str, Any]:
    labels = {"sandbox.fullstackagent.io/id": "a"}
    meta = {"name": name, "uid": uid, "resourceVersion": str(version), "labels": labels, "annotations": {"is": value}}
    return {"metadata": meta}


class Pages:
    """An API server that has lists only, or fails to. `meanwhile` is done before the first page is answered."""

    def __init__(self, *pages: dict[str, Any] | Exception) -> None:
        self.pages = list(pages)
        self.asked: list[dict[str, str]] = []
        self.meanwhile: Callable[[], None] = lambda: None

    @contextlib.asynccontextmanager
    async def call(self, method: str, path: str, *, parameters: dict[str, str]) -> AsyncIterator["Pages"]:
        self.asked.append(dict(parameters))
        yield self

    async def read(self) -> bytes:
        self.meanwhile()
        page = self.pages.pop(0)
        if isinstance(page, Exception):
            raise page
        return json.dumps(page).encode()


class Reporting:
    """An informer without an API server, or with `api`, and the changes that its cache reports."""

    def __init__(self, api: Any = None) -> None:
        self.reported: list[str] = []
        self.read: list[str] = []
        self.cache: Cache[str] = Cache(observe.identify, self._value, self.reported.append, lambda: None)
        self.informer = Informer(api, "/", {"labelSelector": "x"}, self.cache, Pace())

    def _value(self, found: Object) -> str:
        self.read.append(found.metadata.annotations["is"])
        return self.read[-1]

    def hear(self, line: bytes) -> None:
        self.informer._take(EVENT.decode(line))

    def answered(self, version: int, value: str, **more: str) -> None:
        """The answer to a write that was sent before anything else happened."""
        self.cache.answered(OBJECT.decode(json.dumps(item(version, value, **more))), 0)


def line(kind: str, version: int, value: str = "", **more: str) -> bytes:
    return json.dumps({"type": kind, "object": item(version, value, **more)}).encode()


def test_event_that_comes_late_or_twice_changes_nothing() -> None:
    made = Reporting()
    made.hear(line("ADDED", 5, "new"))
    made.answered(9, "newer")
    made.hear(line("MODIFIED", 7, "old"))
    made.hear(line("MODIFIED", 9, "newer"))
    made.hear(line("BOOKMARK", 12, name=""))
    assert made.cache.get(NAME) == "newer"
    assert made.reported == ["a"]
    assert made.read == ["new", "newer"]


def test_what_was_removed_is_not_brought_back_by_the_late_answer_to_a_write() -> None:
    made = Reporting()
    made.hear(line("ADDED", 5, "new"))
    made.hear(line("MODIFIED", 6, "ours"))
    made.hear(line("DELETED", 7))
    made.answered(6, "ours")
    assert made.cache.get(NAME) is None
    assert made.reported == ["a", "a", "a"]


def test_removed_entry_is_not_restored_by_an_event_that_comes_again() -> None:
    made = Reporting()
    news = [line("ADDED", 5, "new"), line("MODIFIED", 6, "ours"), line("DELETED", 7)]
    for one in news:
        made.hear(one)
    made.reported.clear()
    made.hear(line("BOOKMARK", 4, name=""))
    for one in news:
        made.hear(one)
    assert made.cache.get(NAME) is None
    assert made.reported == []


def test_the_removal_of_a_former_object_leaves_its_successor() -> None:
    made = Reporting()
    made.hear(line("ADDED", 5, "former"))
    made.answered(9, "successor", uid="second")
    made.hear(line("DELETED", 8, "former"))
    assert (made.cache.get(NAME), made.cache.uid(NAME)) == ("successor", "second")


def test_object_without_its_label_is_not_removed_once_our_write_has_restored_it() -> None:
    made = Reporting()
    made.hear(line("ADDED", 5, "ours"))
    made.answered(9, "ours")
    made.hear(line("DELETED", 8, "ours"))
    assert made.cache.get(NAME) == "ours"
    made.hear(line("DELETED", 10, "ours"))
    assert made.cache.get(NAME) is None
    assert made.reported == ["a", "a"]


async def test_list_reads_all_pages_reports_what_a_watch_missed_and_keeps_a_newer_write() -> None:
    api = Pages(
        {"metadata": {"resourceVersion": "20", "continue": "more"}, "items": [item(3, "same", name="same")]},
        {"metadata": {"resourceVersion": "20"}, "items": [item(18, "changed", name="changed")]},
        {"metadata": {"resourceVersion": "30"}, "items": []},
    )
    made = Reporting(api)
    for version, name in enumerate(("same", "changed", "missed"), 3):
        made.hear(line("ADDED", version, "same", name=name))
    made.reported.clear()
    api.meanwhile = lambda: made.answered(21, "ours", name="written")
    await made.informer._list()
    assert {name: made.cache.get(name) for name in ("same", "changed", "missed", "written")} == {
        "same": "same",
        "changed": "changed",
        "missed": None,
        "written": "ours",
    }
    assert made.reported == ["a"] * 2
    assert [one.get("continue") for one in api.asked] == [None, "more"]
    assert {one["labelSelector"] for one in api.asked} == {"x"}
    api.meanwhile = lambda: None
    await made.informer._list()
    assert made.cache.get("same") is None


@pytest.mark.fault(19)
async def test_a_list_whose_next_page_is_gone_changes_nothing_and_begins_anew() -> None:
    api = Pages(
        {"metadata": {"resourceVersion": "20", "continue": "more"}, "items": [item(18, "half", name="half")]},
        client.Gone("the provided continue parameter is too old"),
        {"metadata": {"resourceVersion": "30"}, "items": [item(5, "same")]},
    )
    made = Reporting(api)
    made.hear(line("ADDED", 5, "same"))
    made.reported.clear()
    with pytest.raises(client.Gone):
        await made.informer._list()
    assert (made.cache.get(NAME), made.cache.get("half")) == ("same", None)
    await made.informer._list()
    assert [one.get("continue") for one in api.asked] == [None, "more", None]
    assert (made.cache.get(NAME), made.reported) == ("same", [])


class Silence:
    """An API server whose watches say nothing."""

    def __init__(self) -> None:
        self.content = self

    @contextlib.asynccontextmanager
    async def call(self, method: str, path: str, **_: Any) -> AsyncIterator["Silence"]:
        yield self

    async def readany(self) -> bytes:
        await asyncio.Event().wait()
        return b""


async def test_watch_that_ends_because_a_list_is_due_has_not_failed() -> None:
    made = Reporting(Silence())
    made.informer._list_at = time.monotonic() + 0.05
    async with asyncio.timeout(30):
        await made.informer._watch()
    assert made.informer._until_list() == 0


def test_answer_with_a_version_that_has_passed_puts_everything_in_doubt() -> None:
    rewound: list[None] = []
    cache: Cache[str] = Cache(
        observe.identify, lambda found: found.metadata.annotations["is"], lambda _: None, lambda: rewound.append(None)
    )
    cache.shown(OBJECT.decode(json.dumps(item(9, "old"))))
    cache.answered(OBJECT.decode(json.dumps(item(3, "restored"))), cache.position(NAME))
    assert (len(rewound), cache.get(NAME)) == (1, None)


def test_answer_to_a_write_that_changed_nothing_puts_nothing_in_doubt() -> None:
    rewound: list[None] = []
    cache: Cache[str] = Cache(
        observe.identify, lambda found: found.metadata.annotations["is"], lambda _: None, lambda: rewound.append(None)
    )
    same = OBJECT.decode(json.dumps(item(9, "same")))
    cache.shown(same)
    cache.answered(same, cache.position(NAME))
    assert (rewound, cache.get(NAME)) == ([], "same")


@pytest.mark.fault(58)
async def test_cache_is_emptied_from_the_last_removal_until_an_object_comes() -> None:
    made = Reporting(Pages({"metadata": {"resourceVersion": "20"}, "items": []}))
    made.hear(line("ADDED", 5, "first"))
    assert not made.cache.emptied
    made.hear(line("DELETED", 6, "first"))
    assert made.cache.emptied
    await made.informer._list()
    assert made.cache.emptied
    made.hear(line("ADDED", 21, "second"))
    assert not made.cache.emptied


async def test_list_of_another_history_replaces_what_is_newer_than_it() -> None:
    api = Pages({"metadata": {"resourceVersion": "4"}, "items": [item(3, "restored")]})
    made = Reporting(api)
    made.hear(line("ADDED", 9, "old"))
    made.hear(line("ADDED", 10, "old", name="other"))
    await made.informer._list()
    assert (made.cache.get(NAME), made.cache.get("other"), made.cache.version) == ("restored", None, 4)


@pytest.mark.parametrize(
    ("said", "waits"), [("", 0), ("2", 2), ("²", 0), ("86400", client.WAIT_MOST), ("9" * 400, client.WAIT_MOST)]
)
def test_how_long_the_api_server_asks_to_be_left_alone(said: str, waits: float) -> None:
    failed = client.failure("GET /", b"slow down", 429, said)
    assert isinstance(failed, engines.Unreachable)
    assert failed.retry_after == waits
