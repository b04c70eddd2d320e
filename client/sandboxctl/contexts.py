"""The config file: services by name, so that a command needs no options for them. It has no tokens, only their files."""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

LOCAL = "127.0.0.1:50051"
"""The service if nothing names another."""
_CURRENT = re.compile(r"^current:.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Context:
    """A service, how to reach it, and the namespace to use there."""

    server: str = LOCAL
    token_file: Path | None = None
    tls: bool = False
    ca_file: Path | None = None
    namespace: str = ""


_KEYS = tuple(one.name for one in fields(Context))


@dataclass(frozen=True, slots=True)
class Config:
    """What a config file says."""

    path: Path
    current: str
    contexts: Mapping[str, Context]

    def context(self, name: str) -> Context:
        """Returns a context by its name, the current one for an empty name. Raises ValueError for an unknown one."""
        name = name or self.current
        if not name:
            return Context()
        if name not in self.contexts:
            known = ", ".join(self.contexts) or "none"
            raise ValueError(f"there is no context {name!r} in {self.path}: there is {known}")
        return self.contexts[name]


def path() -> Path:
    """Returns the path of the config file."""
    named = os.environ.get("SANDBOX_CONFIG")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "sandboxctl" / "config.yaml"


def load() -> Config:
    """Reads the config file; a missing one has no contexts. Raises OSError or ValueError."""
    file = path()
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        return Config(file, "", {})
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text") from None
    try:
        whole = yaml.safe_load(text) or {}
    except yaml.YAMLError:
        raise ValueError(f"{file} is not YAML") from None
    if not isinstance(whole, dict) or not set(whole) <= {"current", "contexts"}:
        raise _wrong(file, "has other keys than `current` and `contexts`")
    contexts = whole.get("contexts") or {}
    if not isinstance(contexts, dict):
        raise _wrong(file, "`contexts` must have a name for each context")
    return Config(
        file, str(whole.get("current") or ""), {str(name): _context(file, name, one) for name, one in contexts.items()}
    )


def use(name: str) -> None:
    """Makes a context the current one. The rest of the file stays as it is. Raises OSError or ValueError."""
    config = load()
    config.context(name)
    # Follows a link to the file, as of people who keep such files elsewhere.
    file = config.path.resolve()
    text = file.read_text("utf-8")
    line = f"current: {yaml.safe_dump(name, default_flow_style=True).splitlines()[0]}"
    changed = _CURRENT.sub(lambda _match: line, text, count=1) if _CURRENT.search(text) else f"{line}\n{text}"
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as new:
            new.write(changed)
        Path(temporary).chmod(file.stat().st_mode & 0o777)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _context(file: Path, name: Any, values: Any) -> Context:
    if not isinstance(values, dict):
        raise _wrong(file, f"context {name!r} must have fields: {', '.join(_KEYS)}")
    unknown = sorted(str(key) for key in values if key not in _KEYS)
    if unknown:
        raise _wrong(file, f"context {name!r} has no field {unknown[0]!r}: there are {', '.join(_KEYS)}")
    if not isinstance(values.get("tls", False), bool):
        raise _wrong(file, f"tls of context {name!r} must be true or false")
    if not all(isinstance(values.get(key) or "", str) for key in _KEYS if key != "tls"):
        raise _wrong(file, f"the fields of context {name!r} must be text, but for tls")
    return Context(
        server=values.get("server") or LOCAL,
        token_file=_path(file, values.get("token_file")),
        tls=values.get("tls", False),
        ca_file=_path(file, values.get("ca_file")),
        namespace=values.get("namespace") or "",
    )


def _path(file: Path, text: str | None) -> Path | None:
    """Returns a path of the config file: `~` is the home, and a relative one begins at the file's folder."""
    return file.parent / Path(text).expanduser() if text else None


def _wrong(file: Path, what: str) -> ValueError:
    return ValueError(f"{file}: {what}")
