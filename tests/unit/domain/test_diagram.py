from pathlib import Path
from xml.etree import ElementTree

import pytest
from sandbox_server.domain import rules
from sandbox_server.domain.phase import DesiredState

from scripts import diagram, states

PAGE = Path(__file__).parents[3] / "docs" / "lifecycle.md"


def test_the_page_shows_the_tables_as_they_are() -> None:
    assert diagram.block() in PAGE.read_text(), "run `make docs`"


def test_the_drawing_shows_the_tables_as_they_are() -> None:
    assert (PAGE.parent / diagram.DRAWING).read_text() == states.svg(), "run `make docs`"


@pytest.mark.parametrize("desired", DesiredState)
def test_the_drawing_has_every_phase_and_needs_nothing_else(desired: DesiredState) -> None:
    drawing = ElementTree.fromstring(states.svg())
    words = [one.text for one in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert f"desired {desired.name}" in words
    assert {one.name for one in states.phases(desired)} <= set(words)
    assert rules.SETTLED[desired] in states.phases(desired)
    # A viewer that runs no script and fetches nothing shows all of it.
    assert not any(one in states.svg() for one in ("<script", "href", "@import", "foreignObject"))
