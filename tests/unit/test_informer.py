"""What an informer remembers when news comes twice, late or from two sides."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sandbox_server import engines
from sandbox_server.engines.kubernetes import client
from sandbox_server.engines.kubernetes.informer import Informer
from sandbox_server.engines.kubernetes.objects import OBJECT

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


def informer(api: Any = None) -> tuple[Informer[str], list[str]]:
    told: list[str] = []
    made = Informer(
        api, "/", {"labelSelector": "x"}, lambda found: found.metadata.annotations["is"], told.append, 60, lambda: None
    )
    return made, told


def written(version: int, value: str, **more: str) -> Any:
    return OBJECT.decode(json.dumps(item(version, value, **more)))


def line(kind: str, version: int, value: str = "", **more: str) -> bytes:
    return json.dumps({"type": kind, "object": item(version, value, **more)}).encode()


def test_news_that_comes_late_or_twice_changes_nothing() -> None:
    made, told = informer()
    made._hear(line("ADDED", 5, "new"))
    assert made.put(written(9, "newer"))
    assert not made.put(written(9, "newer"))
    made._hear(line("MODIFIED", 7, "old"))
    made._hear(line("MODIFIED", 9, "newer"))
    made._hear(line("BOOKMARK", 12, name=""))
    assert made.get(NAME) == "newer"
    assert told == ["a"]


def test_what_was_removed_is_not_brought_back_by_the_late_answer_to_a_write() -> None:
    made, told = informer()
    made._hear(line("ADDED", 5, "new"))
    made._hear(line("MODIFIED", 6, "ours"))
    made._hear(line("DELETED", 7))
    made.put(written(6, "ours"))
    assert made.get(NAME) is None
    assert told == ["a", "a", "a"]


def test_what_was_removed_is_not_brought_back_by_news_that_is_told_again() -> None:
    made, told = informer()
    news = [line("ADDED", 5, "new"), line("MODIFIED", 6, "ours"), line("DELETED", 7)]
    for one in news:
        made._hear(one)
    told.clear()
    made._hear(line("BOOKMARK", 4, name=""))
    for one in news:
        made._hear(one)
    assert made.get(NAME) is None
    assert told == []


def test_the_removal_of_a_former_object_leaves_its_successor() -> None:
    made, _ = informer()
    made._hear(line("ADDED", 5, "former"))
    made.put(written(9, "successor", uid="second"))
    made._hear(line("DELETED", 8, "former"))
    assert (made.get(NAME), made.uid(NAME)) == ("successor", "second")


def test_one_that_lost_its_label_is_not_gone_once_a_write_of_ours_put_that_back() -> None:
    made, told = informer()
    made._hear(line("ADDED", 5, "ours"))
    assert not made.put(written(9, "ours"))
    made._hear(line("DELETED", 8, "ours"))
    assert made.get(NAME) == "ours"
    made._hear(line("DELETED", 10, "ours"))
    assert made.get(NAME) is None
    assert told == ["a", "a"]


async def test_a_list_takes_all_pages_tells_what_a_watch_missed_and_keeps_a_newer_write() -> None:
    api = Pages(
        {"metadata": {"resourceVersion": "20", "continue": "more"}, "items": [item(3, "same", name="same")]},
        {"metadata": {"resourceVersion": "20"}, "items": [item(18, "changed", name="changed")]},
        {"metadata": {"resourceVersion": "30"}, "items": []},
    )
    made, told = informer(api)
    for version, name in enumerate(("same", "changed", "missed"), 3):
        made._hear(line("ADDED", version, "same", name=name))
    told.clear()
    api.meanwhile = lambda: made.put(written(21, "ours", name="written"))
    await made._list()
    assert {name: made.get(name) for name in ("same", "changed", "missed", "written")} == {
        "same": "same",
        "changed": "changed",
        "missed": None,
        "written": "ours",
    }
    assert told == ["a"] * 2
    assert [one.get("continue") for one in api.asked] == [None, "more"]
    assert {one["labelSelector"] for one in api.asked} == {"x"}
    api.meanwhile = lambda: None
    await made._list()
    assert made.get("same") is None


@pytest.mark.fault(19)
async def test_19_a_list_whose_next_page_is_gone_changes_nothing_and_begins_anew() -> None:
    api = Pages(
        {"metadata": {"resourceVersion": "20", "continue": "more"}, "items": [item(18, "half", name="half")]},
        client.Gone("the provided continue parameter is too old"),
        {"metadata": {"resourceVersion": "30"}, "items": [item(5, "same")]},
    )
    made, told = informer(api)
    made._hear(line("ADDED", 5, "same"))
    told.clear()
    with pytest.raises(client.Gone):
        await made._list()
    assert (made.get(NAME), made.get("half")) == ("same", None)
    await made._list()
    assert [one.get("continue") for one in api.asked] == [None, "more", None]
    assert (made.get(NAME), told) == ("same", [])


@pytest.mark.parametrize(
    ("said", "waits"), [("", 0), ("2", 2), ("²", 0), ("86400", client.WAIT_MOST), ("9" * 400, client.WAIT_MOST)]
)
def test_how_long_the_api_server_asks_to_be_left_alone(said: str, waits: float) -> None:
    failed = client.failure("GET /", b"slow down", 429, said)
    assert isinstance(failed, engines.Unreachable)
    assert failed.retry_after == waits
