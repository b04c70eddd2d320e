"""What docs/migration.md tells a reader to do works, and what it names is there."""

import re
import shlex
from pathlib import Path

import pytest
import sandboxctl.__main__ as sandboxctl
from sandbox.v1 import access_pb2, sandbox_pb2
from sandbox_server.domain import legacy
from sandbox_server.engines.kubernetes import manifests, resources
from sandbox_server.store import legacy_source

from tests.support import samples
from tests.support.service import Service

PAGE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text()
CHECKS = re.findall(r"^\d\. .*?(?=^\d\. |\Z)", PAGE.partition("## Six checks")[2], re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_six_checks_pass(
    service: Service, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setenv("SANDBOX_SERVER", service.address)
    assert len(CHECKS) == 6
    printed = []
    for check in CHECKS:
        for line in re.findall(r"^   (sandboxctl .*)$", check, re.MULTILINE):
            capfdbinary.readouterr()
            with pytest.raises(SystemExit) as ended:
                sandboxctl.main(shlex.split(line)[1:])
            assert ended.value.code == 0, line
            if " exec " in line:
                printed.append(capfdbinary.readouterr().out)
    assert printed == [b"kept\n", b"kept\n", b"kept\n", b"blue kept\n"]


def test_objects_that_kubectl_is_asked_for_are_those_of_the_sandbox() -> None:
    sandbox = samples.sandbox("qa", namespace="team-a")
    names = resources.names(sandbox)
    asked = {word for line in re.findall(r"^   kubectl (.*)$", CHECKS[5], re.MULTILINE) for word in line.split()}
    assert {"team-a", f"statefulset/{names.stateful_set.name}", f"pvc/{names.claim.name}"} <= asked
    assert {f"pod/{resources.pod_name(sandbox)}", f"{manifests.ID}={sandbox.id}"} <= asked
    assert f"delete pod {resources.pod_name(sandbox)}\n" in CHECKS[3]


def test_each_call_and_field_of_the_table_is_in_the_contract() -> None:
    methods = {
        one.name
        for file in (sandbox_pb2, access_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for one in service.methods
    }
    fields = {name for one in sandbox_pb2.DESCRIPTOR.message_types_by_name.values() for name in one.fields_by_name}
    rows = [line.split("|")[2] for line in PAGE.splitlines() if line.startswith("| ")][1:]
    named = {word for row in rows for word in re.findall(r"`([\w.]+)`", row)}
    assert named
    assert {one for one in named if one[0].isupper()} <= methods
    assert {part for one in named if one[0].islower() for part in one.split(".")} <= fields


def test_columns_and_labels_of_the_import_are_those_that_the_page_names() -> None:
    text = PAGE.partition("## Their database")[2]
    for one in (*(name for names in legacy_source.COLUMNS.values() for name in names), *legacy.LABELS):
        assert f"`{one}`" in text
