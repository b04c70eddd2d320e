"""`sandboxctl edit`: variables in an editor. The service shows no values, so that the file has only the names."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from sandbox_client.retry import PATIENCE

from sandboxctl import completion, envfile, settling, show, targets
from sandboxctl.options import chosen
from sandboxctl.settling import Patience, Timeout, Wait, Waiting

app = typer.Typer(no_args_is_help=True, help="Change what a sandbox has in $VISUAL or $EDITOR.")

_HELP = """\
# The variables of {name}. The service shows no values.
# A name alone keeps its value. NAME=value sets a variable, with quotes as in a shell.
# Remove a line to remove the variable. Without a change nothing happens.
"""


@app.callback()
def _group() -> None:
    """A group although it has one command."""


@app.command()
def env(
    sandbox_id: Annotated[
        str, typer.Argument(help="id, or namespace/id", show_default=False, autocompletion=completion.ids)
    ],
    wait: Wait = False,
    patience: Patience = PATIENCE,
    timeout: Timeout = 600,
) -> None:
    """Edit the variables of a sandbox; a running one restarts with them."""
    namespace, name = targets.named(sandbox_id)
    found = chosen.client.get(name, namespace=namespace)
    names = list(found.env_names)
    lines = "".join(f"{one}\n" for one in names)
    edited = _edited(_HELP.format(name=f"{found.namespace}/{found.sandbox_id}") + lines, names)
    gone = [one for one in names if one not in edited.bare and one not in edited.values]
    if not edited.values and not gone:
        show.err.print("nothing was changed")
        return
    # Send the edited variables alone, so that one which somebody else has set in the meantime stays as it is.
    changed = chosen.client.update_env(found, set=edited.values, unset=gone)
    settling.settled(changed, Waiting(wait, patience, timeout))


def _edited(text: str, names: list[str]) -> envfile.Lines:
    """Returns what the person makes of the text, who gets it back as long as it cannot be read.

    Raises `typer.Exit` if the editor fails, or leaves as it is what cannot be read.
    """
    with _folder() as folder:
        file = folder / "variables.env"
        os.close(os.open(file, os.O_CREAT | os.O_EXCL, 0o600))
        file.write_text(text)
        before = file.read_bytes()
        while True:
            _run_editor(file)
            after = file.read_bytes()
            try:
                return envfile.read(after, names)
            except ValueError as error:
                show.failure("error", str(error))
                if after == before:
                    show.err.print("nothing was changed")
                    raise typer.Exit(1) from None
            before = after


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder that no other user can open, on a file system in memory if there is one.

    It is removed with everything that the editor left in it, whatever happens, also when the terminal is closed.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = Path(tempfile.mkdtemp(prefix="sandboxctl-", dir=runtime if Path(runtime).is_dir() and runtime else None))

    def end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_editor(file: Path) -> None:
    words = shlex.split(os.environ.get("VISUAL", "")) or shlex.split(os.environ.get("EDITOR", "")) or ["vi"]
    try:
        code = subprocess.run([*words, str(file)], check=False).returncode  # noqa: S603 - the person's own editor
    except OSError:
        show.failure("error", f"the editor {words[0]!r} cannot be started: set EDITOR")
        raise typer.Exit(1) from None
    if code:
        show.failure("error", f"the editor failed with exit code {code}: nothing was changed")
        raise typer.Exit(1)
