"""The files of the chart that are made from the code, or repeat it. `tests/kubernetes/test_chart.py` renders them."""

import json
import re
import tomllib
from pathlib import Path

import yaml
from sandbox_server.settings import Settings

from scripts import chart_schema

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "chart"
SCHEMA = (CHART / "values.schema.json").read_text()


def test_the_settings_in_the_schema_are_those_of_the_service() -> None:
    assert chart_schema.written(SCHEMA) == SCHEMA, "run `make docs`"
    listed = json.loads(SCHEMA)["properties"]["settings"]
    assert listed["additionalProperties"] is False
    assert len(listed["properties"]) == len([one for one in Settings.model_fields.values() if not one.exclude])
    assert listed["properties"]["workers"] == {
        "description": "Sandboxes reconciled at once for the same reason: a call, a change in the cluster, or another look at every sandbox.",
        "maximum": 1000,
        "minimum": 1,
        "type": "integer",
    }


def test_the_schema_has_every_value_and_no_other() -> None:
    def compare(values: object, schema: dict[str, object], path: str) -> None:
        properties = schema.get("properties")
        if not isinstance(values, dict) or not isinstance(properties, dict):
            return
        assert schema["additionalProperties"] is False, path
        assert set(values) <= set(properties), path
        if values and path != "settings":
            assert set(properties) - set(values) <= {"global", "claims"}, path
        for name, value in values.items():
            compare(value, properties[name], name)

    compare(yaml.safe_load((CHART / "values.yaml").read_text()), json.loads(SCHEMA), "")


def test_the_chart_has_the_version_of_the_service() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (chart["version"], chart["appVersion"]) == (version, version)


def test_each_role_is_one_file_and_the_chart_has_it() -> None:
    for name in (
        "role.yaml",
        "access.yaml",
        "resize.yaml",
        "snapshots.yaml",
        "verification.yaml",
        "namespaces.yaml",
        "doctor.yaml",
    ):
        assert (ROOT / "deploy" / name).resolve() == CHART / "files" / name


def test_the_readme_installs_as_the_page_of_the_installation_does() -> None:
    readme = (ROOT / "README.md").read_text()
    assert f"```yaml\n{(ROOT / 'deploy' / 'production.yaml').read_text()}```" in readme
    commands = re.findall(r"^helm .*$", readme, re.MULTILINE)
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    assert [one.split()[3] for one in commands] == ["install", "test"]
    assert all(one in page for one in commands)
    assert "deploy/production.yaml" in page
