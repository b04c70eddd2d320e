from pathlib import Path

from scripts import diagram

README = Path(__file__).parents[3] / "README.md"


def test_the_readme_shows_the_tables_as_they_are() -> None:
    assert diagram.block() in README.read_text(), "run `make diagram`"
