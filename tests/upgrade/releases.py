"""Releases of the service to run: the previous one, which git has, the present one, and the next one, as it may become."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("server", "client", "generated")
FILES = (*SOURCES, "pyproject.toml", "requirements.txt", "README.md", "LICENSE")
"""What an installation of the server needs."""
VERSIONS = "server/sandbox_server/store/migrations/versions"
REASON = 41
"""A reason that only the next release knows."""
NOTE = "written by the next release"
"""What the next release stores with a sandbox whose environment it has changed, and with its spec."""
EXPANDS = '''"""Adds what the release before can leave alone."""

import sqlalchemy as sa
from alembic import op

revision = "next"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sandbox", sa.Column("note", sa.String(), nullable=True))
    op.add_column("status_event", sa.Column("note", sa.String(), nullable=True))
    op.create_table("note", sa.Column("id", sa.String(), primary_key=True))
'''
DOCUMENT_VERSION = re.compile(r"^VERSION = (\d+)$", re.MULTILINE)
CHANGES = {
    "domain/phase.py": [
        ("    FIELD_CONFLICT = 40\n", f"    FIELD_CONFLICT = 40\n    SERVING = {REASON}\n"),
        ("return self.value >= Reason.IMAGE_PULL.value", "return self.value in range(Reason.IMAGE_PULL.value, 41)"),
    ],
    "domain/findings.py": [
        ('_if(at.pod_ready(), Reason.READY, "the pod is ready")', '_if(at.pod_ready(), Reason.SERVING, "it serves")')
    ],
    "domain/rules.py": [
        ("findings.pod_ready, Phase.RUNNING, Reason.READY)", "findings.pod_ready, Phase.RUNNING, Reason.SERVING)")
    ],
    "domain/sandbox.py": [
        ("    template: Template | None = None\n", '    template: Template | None = None\n    note: str = ""\n')
    ],
    "domain/spec.py": [
        ("    copy_image_home: bool = True\n", '    copy_image_home: bool = True\n    note: str = ""\n')
    ],
    "store/notices.py": [('f"{self.sender} {self.sequence}"', 'f"{self.sender} {self.sequence} and more"')],
    "store/documents.py": [
        ("    changed: Changes | None = None\n", '    changed: Changes | None = None\n    note: str = ""\n'),
        ("    copy_image_home: bool = True\n", '    copy_image_home: bool = True\n    note: str = ""\n'),
    ],
    "store/tables.py": [
        ("    k8s_deployment_name: str\n", "    k8s_deployment_name: str\n    note: str | None\n"),
        ("    method: str | None\n", "    method: str | None\n    note: str | None\n"),
    ],
    "store/rows.py": [
        ('"project", "k8s_deployment_name")', '"project", "k8s_deployment_name", "note")'),
        (
            '        "method": event.cause.method,\n',
            '        "method": event.cause.method,\n        "note": value.note,\n',
        ),
        ('"project", *documents.COLUMNS))', '"project", "note", *documents.COLUMNS))'),
    ],
    "manager.py": [
        (
            "env_names=tuple(sorted(env)))",
            f'env_names=tuple(sorted(env)), note="{NOTE}", spec=dataclasses.replace(before.spec, note="{NOTE}"))',
        )
    ],
}
"""How the next release may differ: in each file, what stands there once and what stands in its place."""


class Release:
    """The source of a release in a folder, and the Python with the packages that it needs."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.folder = folder
        self.python = python

    @property
    def environment(self) -> dict[str, str]:
        paths = os.pathsep.join(str(self.folder / name) for name in SOURCES)
        # Without coverage: its files would be of another source.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE_", "SANDBOX_"))}
        return kept | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": ""}

    @property
    def server(self) -> tuple[str, ...]:
        """The words that begin a command line of `sandbox-server`."""
        return (self.python, "-m", "sandbox_server")

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Runs `sandbox-server` to its end."""
        command = [*self.server, *words]
        return subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=120
        )

    def knows(self, revision: str) -> bool:
        """Whether the release has the migration of that name: the schema that names it as the oldest may be used by it."""
        files = (self.folder / VERSIONS).glob("*.py")
        return any(f'revision = "{revision}"\n' in file.read_text() for file in files)


def git(*words: str) -> str:
    answer = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, f"git {' '.join(words)}: {answer.stderr}"
    return answer.stdout.strip()


def present() -> Release:
    return Release(ROOT)


def previous(folder: Path) -> Release:
    """Returns the last commit of the previous schema: the one before the newest migration was added, under whatever number."""
    newest = max(file for file in (ROOT / VERSIONS).glob("[0-9]*.py"))
    head = re.search(r'^revision = "\w+"$', newest.read_text(), re.MULTILINE)
    assert head is not None
    added = git("log", "--reverse", "--format=%H", f"-S{head[0]}", "--", VERSIONS).partition("\n")[0]
    commit = f"{added}~1" if added else "HEAD"
    found = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", commit], cwd=ROOT, capture_output=True, text=True
    )
    if found.returncode != 0:
        cut = git("rev-parse", "--is-shallow-repository") == "true"
        advice = "this clone is shallow: run `git fetch --unshallow`" if cut else "the history is not as it should be"
        pytest.fail(f"git has no {commit}, the last commit before the migration {newest.name}: {advice}")
    return exported(found.stdout.strip(), folder)


def exported(commit: str, folder: Path) -> Release:
    """Returns the release of a commit: with the packages of this environment if it asks for the same, else with its own."""
    folder.mkdir()
    packed = folder / "source.tar"
    git("archive", "--output", str(packed), commit, *FILES)
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    same = (folder / "requirements.txt").read_text() == (ROOT / "requirements.txt").read_text()
    return Release(folder) if same else Release(folder, installed(folder))


def installed(folder: Path) -> str:
    """Makes an environment for the release in `folder`, and returns its Python."""
    uv, made = Path(sys.executable).with_name("uv"), folder / "venv"
    python = str(made / "bin" / "python")
    steps: Sequence[Sequence[str]] = (
        ("venv", "--python", sys.executable, str(made)),
        ("pip", "install", "--python", python, "--require-hashes", "-r", str(folder / "requirements.txt")),
        ("pip", "install", "--python", python, "--no-deps", str(folder)),
    )
    for step in steps:
        answer = subprocess.run([uv, *step, "--quiet"], capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
    return python


def following(folder: Path) -> Release:
    """Returns the next release, as this one may become: with a migration, a stored member and a reason more."""
    shutil.copytree(ROOT / "server", folder / "server", ignore=shutil.ignore_patterns("__pycache__"))
    for name in SOURCES[1:]:
        (folder / name).symlink_to(ROOT / name)
    package = folder / "server" / "sandbox_server"
    for name, changes in CHANGES.items():
        file = package / name
        text = file.read_text()
        for stands, instead in changes:
            assert text.count(stands) == 1, f"{name} has changed: change CHANGES too, where it has {stands!r}"
            text = text.replace(stands, instead)
        file.write_text(text)
    documents = package / "store" / "documents.py"
    version = DOCUMENT_VERSION.search(documents.read_text())
    assert version is not None
    documents.write_text(DOCUMENT_VERSION.sub(f"VERSION = {int(version[1]) + 1}", documents.read_text()))
    versions = folder / VERSIONS
    newest = max(file for file in versions.glob("[0-9]*.py"))
    head = re.search(r'^revision = "(\w+)"$', newest.read_text(), re.MULTILINE)
    assert head is not None
    (versions / "9999_next.py").write_text(EXPANDS.format(head=head[1]))
    return Release(folder)
