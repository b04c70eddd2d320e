"""Where a page of a list ends."""

import itertools
from collections.abc import Iterator

import pytest
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.rpc import listing, render

from tests.support import samples

LARGE = ("x" * 32_768,) * 8
NAMES = tuple(f"VARIABLE_{number:04}_{'N' * 400}" for number in range(1000))


def large(count: int) -> list[Sandbox]:
    return [samples.sandbox(f"demo-{number:03}", spec=samples.spec(args=LARGE)) for number in range(count)]


def pages(sandboxes: list[Sandbox], most: int = 1000, basic: bool = False) -> Iterator[pb.ListSandboxesResponse]:
    """All pages of a list, as a caller that follows the tokens gets them."""
    while True:
        written = listing.writer(most, lambda one: render.whole(one, basic=basic))(7, map(samples.event, sandboxes))
        assert len(written) <= listing.PAGE_BYTES
        page = pb.ListSandboxesResponse.FromString(written)
        assert page.sequence == 7
        yield page
        if not page.next_page_token:
            return
        last = page.sandboxes[-1]
        assert page.next_page_token == f"{last.namespace}/{last.sandbox_id}"
        sandboxes = [one for one in sandboxes if one.id > last.sandbox_id]


@pytest.mark.find(30)
@pytest.mark.parametrize("count", [0, 1, 11, 12, 17, 40])
def test_a_page_ends_before_it_is_larger_than_3_mib(count: int) -> None:
    made = large(count)
    found = list(pages(made))
    assert [one.sandbox_id for page in found for one in page.sandboxes] == [one.id for one in made]
    for page, following in itertools.pairwise(found):
        assert page.ByteSize() + following.sandboxes[0].ByteSize() > listing.PAGE_BYTES - 512
    assert len(found) == max(1, -(-count // 11))


@pytest.mark.find(30)
@pytest.mark.parametrize("most", [1, 3, 10])
def test_a_page_has_at_most_page_size_sandboxes(most: int) -> None:
    found = list(pages(large(6), most))
    assert [len(page.sandboxes) for page in found] == [min(most, 6 - at) for at in range(0, 6, most)]


@pytest.mark.find(30)
def test_a_sandbox_larger_than_a_page_is_a_page_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE_BYTES", 1000)
    written = listing.writer(100, render.whole)(1, map(samples.event, large(2)))
    page = pb.ListSandboxesResponse.FromString(written)
    assert [one.sandbox_id for one in page.sandboxes] == ["demo-000"]
    assert page.next_page_token == "default/demo-000"


@pytest.mark.find(30)
@pytest.mark.slow
def test_the_basic_view_has_neither_specs_nor_the_names_of_variables() -> None:
    made = [
        samples.sandbox(f"demo-{number:03}", spec=samples.spec(args=LARGE), env_names=NAMES) for number in range(300)
    ]
    (page,) = pages(made, basic=True)
    assert [one.sandbox_id for one in page.sandboxes] == [one.id for one in made]
    for one in page.sandboxes:
        assert not one.HasField("spec") and not one.env_names
        assert (one.status.project, one.desired_state, one.uid != "") == ("demo", pb.DESIRED_STATE_RUNNING, True)


@pytest.mark.find(30)
def test_the_largest_sandbox_that_the_limits_allow_fits_into_a_page() -> None:
    command = ("x" * 4096,) * 64
    notes = {f"example.com/note-{number}": "x" * 200 for number in range(64)}
    labels = {f"example.com/{number:063}": "x" * 63 for number in range(64)}
    spec = samples.spec(command=command, args=LARGE, annotations=notes, labels=labels)
    most = samples.sandbox(spec=spec, env_names=tuple(f"{number:04}{'N' * 520}" for number in range(1000)))
    assert len(listing.writer(1, render.whole)(1, iter([samples.event(most)]))) <= listing.PAGE_BYTES
    assert len(list(pages([most]))) == 1
