"""docs/watching.md has the programs as they are in examples/, and a drawing that needs nothing else."""

from pathlib import Path
from xml.etree import ElementTree

from scripts import watching

PAGE = Path(__file__).parents[2] / "docs" / "watching.md"


def test_the_page_has_the_programs_as_they_are() -> None:
    text = PAGE.read_text()
    assert text == watching.written(text), "run `make docs`"
    assert {found[2].rpartition(".")[2] for found in watching.PROGRAM.finditer(text)} == {"py", "ts", "go"}


def test_the_drawing_is_that_of_the_script() -> None:
    drawing = (PAGE.parent / watching.DRAWING).read_text()
    assert drawing == watching.svg(), "run `make docs`"
    words = [one.text for one in ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}text")]
    assert {step[1] for step in watching.STEPS} <= set(words)
    assert not any(one in drawing for one in ("<script", "href", "@import", "foreignObject"))
