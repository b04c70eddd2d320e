"""Where the tests build the examples, with which environment, and by which commands of their page."""

import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "examples" / "README.md").read_text()
LANGUAGES = sorted(path.name for path in (ROOT / "examples").iterdir() if path.is_dir() and path.name != "web")
BUILT = ROOT / ".callers"
"""A copy of the examples, with what was built of them."""
MARKS = BUILT / "marks"
"""A file for each of its parts, which says in which run of pytest that was built."""
MADE = (".venv", "gen", "dist", "node_modules", "target")
"""What somebody who followed the page has in the examples themselves."""
ENVIRONMENT = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
PLUGIN = shutil.which("grpc_java_plugin")
BUILDING = {**ENVIRONMENT, "MAVEN_OPTS": f"-DprotocPluginExecutable={PLUGIN}"} if PLUGIN else ENVIRONMENT


def block(heading: str, page: str = PAGE) -> list[str]:
    """Returns the lines of the first code block after a heading of a page."""
    _, _, after = page.partition(f"# {heading}\n")
    found = re.search(r"```\n(.*?)```", after, re.DOTALL)
    assert found is not None
    return found[1].splitlines()


def commands(language: str) -> list[str]:
    """Returns the commands that build the example of a language, and the one that runs it."""
    (found,) = (one for one in re.findall(r"^## (.+)$", PAGE, re.MULTILINE) if one.lower() == language)
    return block(found)
