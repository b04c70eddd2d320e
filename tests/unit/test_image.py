"""What the image promises, read from its Dockerfile; `make image-check` carries the steps out."""

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest
from sandbox_server import monitoring
from sandbox_server.rpc import probe

from scripts import image_check

ROOT = Path(__file__).parents[2]
STEPS = image_check.read((ROOT / "Dockerfile").read_text())
LAST = max(step.stage for step in STEPS)
LOCKS = ("requirements.txt", "requirements-dev.txt", "requirements-uv.txt")


def every(word: str, stage: int | None = None) -> list[image_check.Instruction]:
    return [step for step in STEPS if step.word == word and stage in {None, step.stage}]


def sources() -> list[str]:
    copies = [step for step in every("COPY") if "--from" not in step.rest]
    return [source for step in copies for source in step.arguments()[:-1]]


def sent_to_the_builder(name: str) -> bool:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = True
    for line in lines:
        if line and not line.startswith("#") and fnmatch.fnmatch(name, line.removeprefix("!")):
            sent = line.startswith("!")
    return sent


def test_there_are_two_stages_of_one_pinned_base() -> None:
    bases = [step.rest.partition(" AS ")[0] for step in every("FROM")]
    assert len(bases) == 2
    assert set(bases) == {"python:3.11-slim-bookworm"}


def test_the_service_runs_as_a_number_that_is_not_root() -> None:
    assert [step.rest for step in every("USER", LAST)] == ["1001:1001"]
    words = [step.word for step in STEPS if step.stage == LAST]
    assert not {"RUN", "COPY", "WORKDIR"} & set(words[words.index("USER") :])


def test_the_last_stage_installs_nothing() -> None:
    assert not re.search(r"\b(pip|uv|apt-get|apt|curl|wget)\b", " ".join(step.rest for step in every("RUN", LAST)))


def test_nothing_is_fetched_but_through_pinned_hashes() -> None:
    steps = " && ".join(step.rest for step in every("RUN")).split(" && ")
    fetching = [step for step in steps if re.search(r"\b(pip install|uv build)\b", step)]
    assert len(fetching) == 4
    unpinned = [step for step in fetching if "--require-hashes" not in step]
    # The last one has all it installs at hand: the wheel that was just built.
    assert [step.endswith("--no-deps --compile-bytecode /build/dist/*.whl") for step in unpinned] == [True]
    assert not re.search(r"\b(apt-get|apt|curl|wget|git)\b", " ".join(steps))
    assert every("ADD") == []


def test_locks_pin_each_package_with_hashes_and_name_no_host() -> None:
    for name in LOCKS:
        text = (ROOT / name).read_text()
        entries = re.findall(
            r"^(\S+?)==(\S+)([^\n]*\n(?:    --hash=sha256:[0-9a-f]{64}[^\n]*\n?)+)", text, re.MULTILINE
        )
        assert len(entries) == len(re.findall(r"^\S", text, re.MULTILINE)), f"{name} holds something unpinned"
        assert "//" not in text, f"{name} names a host"
        assert "--index" not in text, f"{name} names an index"


def test_the_run_time_lock_is_part_of_the_full_one() -> None:
    pins = {name: set(re.findall(r"^\S+==\S+", (ROOT / name).read_text(), re.MULTILINE)) for name in LOCKS}
    assert pins["requirements.txt"] < pins["requirements-dev.txt"]


def test_everything_that_is_copied_exists_and_reaches_the_builder() -> None:
    assert sources()
    assert [name for name in sources() if not (ROOT / name).exists()] == []
    assert [name for name in sources() if not sent_to_the_builder(name)] == []


def test_history_and_local_data_never_reach_the_builder() -> None:
    assert [name for name in (".git", ".venv", ".data", ".env", "tests") if sent_to_the_builder(name)] == []


def test_the_wheel_gets_every_folder_that_it_is_made_of() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert {folder.partition("/")[0] for folder in build["targets"]["wheel"]["packages"]} <= set(sources())


def test_the_image_starts_the_service_and_asks_after_its_health() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    (entrypoint,) = every("ENTRYPOINT", LAST)
    assert entrypoint.arguments() == ["sandbox-server"]
    assert "sandbox-server" in scripts
    (health,) = every("HEALTHCHECK", LAST)
    assert health.rest.endswith('CMD ["sandbox-server", "health"]')


@pytest.mark.find(46)
def test_the_probes_of_a_pod_ask_what_the_service_answers_and_are_given_the_time_that_it_takes() -> None:
    text = (ROOT / "deploy" / "chart" / "templates" / "deployment.yaml").read_text()
    probes = re.findall(
        r"(\w+Probe):\n +httpGet: \{path: (\S+), port: http\}\n +periodSeconds: (\d+)\n +timeoutSeconds: (\d+)\n", text
    )
    asked = {"startupProbe": "/healthz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    assert {name: path for name, path, *_ in probes} == asked
    # The default of the kubelet is one second.
    assert all(int(limit) > monitoring.PROBE_MOST for *_, limit in probes)
    (port,) = every("EXPOSE", LAST)
    assert f"{{name: grpc, containerPort: {port.rest}}}" in text
    (health,) = every("HEALTHCHECK", LAST)
    (limit,) = re.findall(r"--timeout=(\d+)s", health.rest)
    assert int(limit) > probe.ANSWER


def test_no_secret_is_set_in_the_image() -> None:
    assert every("ARG") == []
    assert not re.search(r"(?i)token|password|secret|key", " ".join(step.rest for step in every("ENV")))
