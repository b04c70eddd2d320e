"""What `sandbox-server adopt` takes and says."""

import json
from pathlib import Path
from typing import Any

import pytest
from sandbox_server import adopting, settings, store
from sandbox_server.domain.legacy import Fact

from tests.support import former_objects as former
from tests.support.former_objects import NAME
from tests.support.scripted import writes
from tests.support.scripted_api import ScriptedApi


class Command:
    """Runs the command against an API server, with a database of its own; `said` is what it has said before its report."""

    def __init__(self, api: ScriptedApi, folder: Path) -> None:
        self._flags = ["--engine", "kubernetes", "--kubeconfig", str(api.kubeconfig(folder)), "--data-dir", str(folder)]
        self.said: list[str] = []

    async def run(self, *flags: str) -> str:
        chosen = settings.load([*self._flags, "--namespace", "default", *flags], settings.Adoption)
        assert isinstance(chosen, settings.Adoption)
        return await adopting.run(chosen, self.said.append)

    async def report(self, *flags: str) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(await self.run("--output", "json", *flags))
        return report


@pytest.fixture
async def command(api: ScriptedApi, tmp_path: Path) -> Command:
    former.put(api, [*former.objects(), *former.objects("deployment.yaml")])
    return Command(api, tmp_path)


@pytest.mark.slow
async def test_the_report_has_what_becomes_of_each_object_and_why(command: Command, api: ScriptedApi) -> None:
    report = await command.report("--dry-run")
    assert report["dry_run"] is True
    assert report["counts"] == {"adopted": 1, "unchanged": 0, "given back": 0, "skipped": 1}
    stateful_set, deployment = report["results"]
    assert (stateful_set["name"], stateful_set["project"], stateful_set["desired"]) == (NAME, "myproject", "RUNNING")
    assert stateful_set["public_url"] == "https://abcdefghijkl.usw.sealos.io"
    assert "in its pod alone" in deployment["why"]
    assert (await command.report())["counts"]["adopted"] == 1
    assert (await command.report())["counts"] == {"adopted": 0, "unchanged": 1, "given back": 0, "skipped": 1}
    assert writes(api) == []


@pytest.mark.slow
async def test_people_are_told_where_the_way_back_ends_before_anything_is_done(command: Command) -> None:
    text = await command.run("--dry-run")
    assert "--undo gives it back" in command.said[0]
    assert f"adopted  StatefulSet {NAME}: project myproject, RUNNING" in text
    assert text.endswith("2 objects: 1 adopted, 1 skipped\nNothing was changed.\n")
    await command.run("--dry-run", "--restart", "now")
    assert "--undo cannot" in command.said[1]


@pytest.mark.slow
async def test_a_selector_chooses_among_what_carries_the_label(command: Command) -> None:
    report = await command.report("--selector", "project.fullstackagent.io/name=older", "--dry-run")
    assert [one["name"] for one in report["results"]] == ["older-agentruntime-q4m8z1"]


@pytest.mark.slow
async def test_what_an_import_told_counts_more_than_labels_and_less_than_a_flag(
    command: Command, tmp_path: Path
) -> None:
    await command.report("--dry-run")
    fact = Fact(namespace="default", name=NAME, legacy_id="clx1", project="shop", owner="ada")
    store.legacy.record(tmp_path / "sandbox.db", [fact])
    for flags, project in ((), "shop"), (("--project", "given"), "given"):
        report = await command.report("--dry-run", *flags)
        assert report["results"][0]["project"] == project


@pytest.mark.slow
async def test_sandboxes_belong_to_the_tenant_of_the_namespace(command: Command, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    tenant = {"name": "alice", "namespaces": ["default"], "tokens": ["t" * 16]}
    tokens.write_text(json.dumps({"tenants": [tenant]}))
    with pytest.raises(ValueError, match="belongs to the tenant 'alice'"):
        await command.run("--token-file", str(tokens), "--tenant", "bob")
    assert (await command.report("--token-file", str(tokens)))["counts"]["adopted"] == 1


async def test_a_namespace_that_the_service_does_not_look_at_is_refused(command: Command) -> None:
    with pytest.raises(ValueError, match="is no tenant's"):
        await command.run("--namespaces", "others")


async def test_without_rights_the_next_step_is_said(command: Command, api: ScriptedApi) -> None:
    api.role = False
    with pytest.raises(ValueError, match=r"deploy/adoption\.yaml"):
        await command.run()
