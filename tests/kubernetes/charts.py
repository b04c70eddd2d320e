"""The real helm, and the chart of this repository."""

import functools
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes import builds

HERE = Path(__file__).parent
DEPLOY = HERE.parents[1] / "deploy"
CHART = DEPLOY / "chart"
PRODUCTION = DEPLOY / "production.yaml"


@functools.cache
def build() -> Path:
    """The binary, built when needed. Raises RuntimeError with what is missing."""
    return builds.built(HERE / "helm" / "build.sh", "helm")


class HelmFailed(Exception):
    """What helm printed on standard error."""


def helm(*words: str | Path, kubeconfig: Path | None = None) -> str:
    """What a command prints. Raises HelmFailed."""
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "HOME": home, "KUBECONFIG": str(kubeconfig or "/dev/null")}
        done = subprocess.run([build(), *words], capture_output=True, text=True, env=env, timeout=300)
    if done.returncode:
        raise HelmFailed(done.stderr)
    return done.stdout


def given(values: dict[str, Any]) -> list[str]:
    """The words that give helm these values, the names of nested ones with dots."""
    return [word for name, value in values.items() for word in ("--set-json", f"{name}={json.dumps(value)}")]


def rendered(values: dict[str, Any], *words: str | Path) -> list[dict[str, Any]]:
    """The objects of `helm template`, release `r` in the namespace `system`."""
    text = helm("template", "r", CHART, "--namespace", "system", *words, *given(values))
    return [one for one in yaml.safe_load_all(text) if one]
