from pathlib import Path

from scripts import diagram

PAGE = Path(__file__).parents[3] / "docs" / "lifecycle.md"


def test_the_page_shows_the_tables_as_they_are() -> None:
    assert diagram.block() in PAGE.read_text(), "run `make diagram`"
