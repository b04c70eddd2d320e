"""Rendered objects against the published Kubernetes schemas, the typed models, and files reviewed as YAML."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import kubernetes_validate
import msgspec
import pytest
import yaml
from kubernetes.client import ApiClient, V1Ingress, V1PersistentVolumeClaim, V1Secret, V1Service, V1StatefulSet
from sandbox_server.domain.sandbox import Sandbox
from sandbox_server.domain.spec import Readiness, Storage
from sandbox_server.engines import kubernetes
from sandbox_server.engines.kubernetes import manifests, resources
from sandbox_server.engines.local import launch
from sandbox_server.settings import Kubernetes, Local
from sandbox_server.store import documents

from tests.support import samples

GOLDEN = Path(__file__).parent / "golden"
ENV = {"A": "1", "B": "two\nlines"}
MODELS = {
    "PersistentVolumeClaim": V1PersistentVolumeClaim,
    "Secret": V1Secret,
    "Service": V1Service,
    "Ingress": V1Ingress,
    "StatefulSet": V1StatefulSet,
}
# Compare with UPDATE_GOLDEN=1 once the difference is meant, and review the files.
UPDATE = os.environ.get("UPDATE_GOLDEN") == "1"

VARIANTS: dict[str, tuple[dict[str, object], Kubernetes]] = {
    "defaults": ({}, Kubernetes()),
    "sealos-off": ({}, Kubernetes(sealos_labels=False)),
    "tls": ({}, Kubernetes(tls_secret="wildcard", ingress_class="", ingress_domain="sandboxes.example.com")),
    "custom-storage": ({"storage": Storage("20Gi", "fast", "ReadWriteOncePod")}, Kubernetes()),
    "runtime-class": (
        {
            "runtime_class": "gvisor",
            "command": ("/bin/run",),
            "args": ("--now",),
            "labels": {"tier": "web"},
            "annotations": {"example.com/note": "hello"},
            "readiness": Readiness(http_path="/healthz"),
        },
        Kubernetes(allowed_annotations=("example.com/",)),
    ),
    "operator": (
        {"labels": {"tier": "web"}},
        Kubernetes(
            ingress_annotations={"nginx.ingress.kubernetes.io/proxy-body-size": "0"},
            node_selector={"pool": "sandboxes"},
            tolerations=[{"key": "sandboxes", "operator": "Exists", "effect": "NoSchedule"}],
            pull_secrets="registry,mirror",
            priority_class="sandboxes",
            pod_patch=[{"op": "add", "path": "/spec/dnsPolicy", "value": "Default"}],
        ),
    ),
}


def made(variant: str) -> tuple[Sandbox, str]:
    changes, config = VARIANTS[variant]
    sandbox = samples.sandbox(
        "demo", uid="00000000-0000-0000-0000-000000000001", host="habcdefghijk", spec=samples.spec(**changes)
    )
    return sandbox, kubernetes.render(sandbox, ENV, config)


@pytest.mark.parametrize("variant", VARIANTS)
def test_objects_are_as_reviewed(variant: str) -> None:
    path = GOLDEN / variant / "objects.yaml"
    _, rendered = made(variant)
    if UPDATE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rendered)
    assert path.read_text() == rendered


def test_names_of_a_sandbox_are_those_of_its_rendered_objects() -> None:
    sandbox = samples.sandbox("demo")
    for reference, resource in zip(
        resources.names(sandbox), manifests.objects(sandbox, ENV, 1, Kubernetes()), strict=True
    ):
        metadata = resource.manifest["metadata"]
        assert resource.reference == reference
        assert (resource.manifest["kind"], metadata["namespace"], metadata["name"]) == (
            reference.kind.title,
            reference.namespace,
            reference.name,
        )
    assert str(resources.names(sandbox).service) == "Service demo-service"


@pytest.mark.parametrize("variant", VARIANTS)
def test_objects_keep_the_published_schemas(variant: str) -> None:
    for manifest in yaml.safe_load_all(made(variant)[1]):
        kubernetes_validate.validate(manifest, "1.33", strict=True)
        client = ApiClient()
        response = type("Response", (), {"data": __import__("json").dumps(manifest)})()
        model = client.deserialize(response.data, MODELS[manifest["kind"]], "application/json")
        assert client.sanitize_for_serialization(model) == manifest


def test_what_design_promises_of_the_pod_and_the_claim() -> None:
    sandbox, rendered = made("defaults")
    stateful_set = list(yaml.safe_load_all(rendered))[-1]
    spec, pod = stateful_set["spec"], stateful_set["spec"]["template"]["spec"]
    assert spec["podManagementPolicy"] == "Parallel"
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert spec["serviceName"] == sandbox.objects.service
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "vn-homevn-agent"
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"
    (container,) = pod["containers"]
    mount = {"name": "vn-homevn-agent", "mountPath": "/home/agent", "subPath": "home"}
    assert container["volumeMounts"] == [mount]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsUser"] == 1001
    assert pod["automountServiceAccountToken"] is False
    assert "lines" not in rendered
    assert "dHdv" not in str(stateful_set)


def test_the_service_makes_the_disk_and_the_controller_only_what_never_binds() -> None:
    sandbox, rendered = made("custom-storage")
    _, disk, *_, stateful_set = yaml.safe_load_all(rendered)
    (template,) = stateful_set["spec"]["volumeClaimTemplates"]
    assert disk["metadata"]["name"] == f"{template['metadata']['name']}-{sandbox.id}-0"
    assert "volumeName" in template["spec"]
    assert "volumeName" not in disk["spec"]
    assert "sandbox.fullstackagent.io/placeholder" in template["metadata"]["annotations"]
    assert "sandbox.fullstackagent.io/placeholder" not in disk["metadata"]["annotations"]
    # Sealos clears an app's claims away by these.
    assert set(disk["metadata"]["labels"]) == {"sandbox.fullstackagent.io/id"}


@pytest.mark.slow
def test_no_setting_changes_what_a_stateful_set_can_never_change() -> None:
    sandbox, _ = made("defaults")
    settings = (Kubernetes(), *(config for _, config in VARIANTS.values()))
    rendered = [list(yaml.safe_load_all(kubernetes.render(sandbox, ENV, one)))[-1] for one in settings]
    fixed = ("serviceName", "selector", "podManagementPolicy", "volumeClaimTemplates")
    assert all(one["spec"][field] == rendered[0]["spec"][field] for one in rendered for field in fixed)


def expanded(word: str, env: Mapping[str, str]) -> str:
    """What the kubelet makes of a word (k8s.io/kubernetes/third_party/forked/golang/expansion/expand.go)."""

    def one(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else env.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", one, word)


DOLLARS = ("$", "$$", "$$$", "$(A)", "$$(A)", "$$$(A)", "$(PORT)", "${A}", "$A", "$(", "$()", "$(A", "a$", "$(A)$(B)$")


@pytest.mark.fault(70)
@pytest.mark.find(17)
@pytest.mark.parametrize("word", DOLLARS)
def test_the_process_gets_command_and_args_as_the_caller_wrote_them(word: str) -> None:
    sandbox = samples.sandbox(spec=samples.spec(command=("/bin/run", word), args=(word, "--now")))
    *_, stateful_set = yaml.safe_load_all(kubernetes.render(sandbox, ENV, Kubernetes()))
    (container,) = stateful_set["spec"]["template"]["spec"]["containers"]
    env = {**ENV, "PORT": "3000"}
    assert [expanded(one, env) for one in container["command"]] == ["/bin/run", word]
    assert [expanded(one, env) for one in container["args"]] == [word, "--now"]
    local = launch.launch(
        dataclasses.replace(sandbox, addresses=dataclasses.replace(sandbox.addresses, ports=(3000,))),
        ENV,
        Path("/nowhere"),
        Local(local_isolation="none"),
        hide=Path("/nowhere"),
    )
    assert list(local.words) == ["/bin/run", word, word, "--now"]


@pytest.mark.find(19)
@pytest.mark.parametrize(
    "storage",
    [
        Storage("20Gi", "", "ReadWriteOnce"),
        Storage("5Gi", "fast", "ReadWriteOnce"),
        Storage("5Gi", "", "ReadWriteMany"),
    ],
)
def test_the_claim_template_has_nothing_of_the_disk(storage: Storage) -> None:
    sandbox, _ = made("defaults")
    other = dataclasses.replace(sandbox, spec=samples.spec(storage=storage))
    usual, changed = (
        list(yaml.safe_load_all(kubernetes.render(one, ENV, Kubernetes())))[-1]["spec"]["volumeClaimTemplates"]
        for one in (sandbox, other)
    )
    assert changed == usual


@pytest.mark.fault(69)
@pytest.mark.find(18)
@pytest.mark.parametrize(
    "first", [Kubernetes(), Kubernetes(tls_secret="one", ingress_class="", ingress_domain="one.test")]
)
def test_changed_ingress_settings_leave_the_route_of_a_sandbox_alone(first: Kubernetes) -> None:
    sandbox = samples.sandbox()
    sandbox = dataclasses.replace(sandbox, addresses=manifests.addresses(sandbox, first))
    changed = Kubernetes(tls_secret="two", ingress_class="two", ingress_domain="two.test")
    assert manifests.objects(sandbox, {}, 1, changed) == manifests.objects(sandbox, {}, 1, first)


@pytest.mark.fault(69)
@pytest.mark.find(18)
def test_sandbox_stored_without_class_and_secret_keeps_its_hosts_and_follows_the_settings() -> None:
    first = Kubernetes(ingress_domain="one.test", ingress_class="one")
    sandbox = samples.sandbox()
    made = dataclasses.replace(sandbox, addresses=manifests.addresses(sandbox, first))
    stored = json.loads(msgspec.json.encode(made))
    for name in ("ingress_class", "tls_secret"):
        del stored["addresses"][name]
    row = documents.Row(1, json.dumps(stored), None, None, None, None, None, None, None)
    (event,) = documents.events([row], lambda _: [])
    earlier = event.sandbox
    changed = Kubernetes(tls_secret="two", ingress_class="two", ingress_domain="two.test")
    objects = manifests.objects(earlier, {}, 1, changed)
    ingresses = [one.manifest["spec"] for one in (objects.app_ingress, objects.ttyd_ingress)]
    assert [one["rules"][0]["host"] for one in ingresses] == [
        f"{sandbox.host}.one.test",
        f"{sandbox.host}-ttyd.one.test",
    ]
    assert {one["ingressClassName"] for one in ingresses} == {"two"}
    assert {one["tls"][0]["secretName"] for one in ingresses} == {"two"}
