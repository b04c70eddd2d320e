"""What operators allow callers, and what they add to the objects of every sandbox."""

import copy
import json
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from sandbox.v1 import sandbox_pb2 as pb
from sandbox_server import settings
from sandbox_server.domain import errors
from sandbox_server.domain.pace import Pace
from sandbox_server.domain.tenant import Tenant
from sandbox_server.engines import kubernetes
from sandbox_server.rpc import convert
from sandbox_server.settings import Kubernetes, Settings

from tests.support import samples

pytestmark = pytest.mark.find(22)

FOREIGN = (
    "nginx.org/server-snippets",
    "cert-manager.io/cluster-issuer",
    "k8s.v1.cni.cncf.io/networks",
    "sidecar.istio.io/inject",
    "iam.amazonaws.com/role",
    "traefik.ingress.example/router.middlewares",
    "words",
)


def created(chosen: Settings, **spec: Any) -> None:
    request = pb.CreateSandboxRequest(spec=pb.SandboxSpec(project="demo", **spec))
    convert.creation(Tenant("default", ("default",)), request, chosen.defaults, chosen.policy)


def refused(chosen: Settings, **spec: Any) -> dict[str, str]:
    with pytest.raises(errors.Invalid) as caught:
        created(chosen, **spec)
    assert len({one.field for one in caught.value.violations}) == len(caught.value.violations)
    return {one.field: one.description for one in caught.value.violations}


def rendered(chosen: Kubernetes, **changes: Any) -> dict[str, list[dict[str, Any]]]:
    """The objects by kind, and the pod template as `Pod`."""
    sandbox = samples.sandbox(spec=samples.spec(**changes))
    found: dict[str, list[dict[str, Any]]] = {}
    for one in yaml.safe_load_all(kubernetes.render(sandbox, {"A": "1"}, chosen)):
        found.setdefault(one["kind"], []).append(one)
    return found | {"Pod": [found["StatefulSet"][0]["spec"]["template"]]}


@pytest.mark.parametrize("key", FOREIGN)
def test_only_the_stateful_set_and_its_pod_have_a_callers_annotation(key: str) -> None:
    objects = rendered(Kubernetes(), annotations={key: "of-the-caller"})
    for kind in ("Secret", "Service", "Ingress", "PersistentVolumeClaim"):
        assert objects[kind]
        assert "of-the-caller" not in json.dumps(objects[kind])
    for kind in ("StatefulSet", "Pod"):
        assert objects[kind][0]["metadata"]["annotations"][key] == "of-the-caller"
    assert "of-the-caller" not in json.dumps(objects["StatefulSet"][0]["spec"]["volumeClaimTemplates"])


def test_only_the_stateful_set_and_its_pod_have_a_callers_labels() -> None:
    labels = {"tier": "of-the-caller", "team.example/a": "of-the-caller", "sidecar.istio.io/inject": "of-nobody"}
    objects = rendered(Kubernetes(allowed_annotations=("team.example/",)), labels=labels)
    for kind in ("Secret", "Service", "Ingress", "PersistentVolumeClaim"):
        assert "of-the-caller" not in json.dumps(objects[kind])
    for kind in ("StatefulSet", "Pod"):
        found = objects[kind][0]["metadata"]["labels"]
        assert found.items() >= {"tier": "of-the-caller", "team.example/a": "of-the-caller"}.items()
    assert "of-nobody" not in json.dumps(objects)
    (stateful_set,), (service,) = objects["StatefulSet"], objects["Service"]
    assert set(stateful_set["spec"]["selector"]["matchLabels"]) == {"sandbox.fullstackagent.io/id"}
    assert set(service["spec"]["selector"]) == {"sandbox.fullstackagent.io/id"}


@pytest.mark.parametrize("key", FOREIGN)
def test_an_annotation_that_is_not_allowed_is_an_invalid_argument_that_names_the_setting(key: str) -> None:
    found = refused(Settings(), annotations={key: ""})
    assert list(found) == [f"spec.annotations[{key}]"]
    assert "allowed-annotations" in found[f"spec.annotations[{key}]"]


@pytest.mark.parametrize(
    ("allowed", "key", "good"),
    [
        ("example.com/", "example.com/name", True),
        ("other.example/,example.com/", "example.com/name", True),
        ("example.com/name", "example.com/name", True),
        ("name", "name", True),
        ("example.com/name", "example.com/name.more", False),
        ("example.com/", "example.com.evil/name", False),
        ("example.com/", "more.example.com/name", False),
        ("example.com/", "name", False),
        ("name", "name.more", False),
        ("name", "example.com/name", False),
    ],
)
def test_a_prefix_allows_its_keys_and_a_key_itself(allowed: str, key: str, good: bool) -> None:
    chosen = settings.load(["--allowed-annotations", allowed])
    if good:
        created(chosen, annotations={key: "x"})
    else:
        assert list(refused(chosen, annotations={key: "x"})) == [f"spec.annotations[{key}]"]


def test_classes_that_are_not_allowed_are_invalid_arguments_that_name_the_setting() -> None:
    asked = {"runtime_class": "kata", "storage": pb.Storage(storage_class="local-path")}
    found = refused(Settings(storage_class="fast", allowed_runtime_classes=("gvisor",)), **asked)
    assert set(found) == {"spec.runtime_class", "spec.storage.storage_class"}
    assert "allowed-runtime-classes" in found["spec.runtime_class"]
    assert "allowed-storage-classes" in found["spec.storage.storage_class"]
    created(Settings(storage_class="fast"), storage=pb.Storage(storage_class="fast"))
    created(Settings(storage_class="fast"))
    created(Settings(allowed_runtime_classes=("kata",), allowed_storage_classes=("local-path",)), **asked)


def test_a_malformed_field_is_named_once() -> None:
    found = refused(Settings(), annotations={"app": ""}, runtime_class="A", storage=pb.Storage(storage_class="A"))
    assert set(found) == {"spec.annotations[app]", "spec.runtime_class", "spec.storage.storage_class"}
    assert list(refused(Settings(), annotations={f"k{n}": "" for n in range(65)})) == ["spec.annotations"]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("allowed-annotations", "example.com"[:-4] + "/b/"),
        ("allowed-annotations", "a b/"),
        ("allowed-annotations", "kubernetes.io/"),
        ("allowed-annotations", "ingress.kubernetes.io/x"),
        ("allowed-annotations", "sandbox.fullstackagent.io/"),
        ("allowed-annotations", "/"),
        ("allowed-runtime-classes", "gvisor,A B"),
        ("allowed-storage-classes", "-"),
        ("pull-secrets", "A"),
        ("priority-class", "A"),
        ("ingress-annotations", "a=b"),
        ("ingress-annotations", "[]"),
        ("ingress-annotations", '{"a b": "c"}'),
        ("ingress-annotations", '{"a": 1}'),
        ("ingress-annotations", '{"sandbox.fullstackagent.io/uid": "x"}'),
        ("node-selector", '{"a": "b c"}'),
        ("node-selector", '{"/": "b"}'),
        ("node-selector", '{"a": true}'),
        ("tolerations", "{}"),
        ("tolerations", '[{"key": "a", "effekt": "NoSchedule"}]'),
        ("tolerations", '[{"key": "a", "effect": "Never"}]'),
        ("tolerations", '[{"effect": "NoSchedule"}]'),
        ("tolerations", '[{"key": "a", "operator": "Exists", "value": "b"}]'),
        ("tolerations", '[{"key": "a", "tolerationSeconds": 1}]'),
        ("pod-patch", "{}"),
        ("pod-patch", '["add"]'),
        ("pod-patch", '[{"op": "add"'),
    ],
)
def test_a_setting_that_no_object_can_have_is_refused_by_name(flag: str, value: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings.load([f"--{flag}={value}"])
    assert {str(one["loc"][0]) for one in caught.value.errors()} == {flag.replace("-", "_")}


@pytest.mark.parametrize("flag", ["allowed-annotations", "ingress-annotations", "tolerations", "pod-patch"])
def test_a_setting_that_is_given_as_empty_is_none(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_" + flag.upper().replace("-", "_"), "")
    assert not getattr(settings.load([]), flag.replace("-", "_"))


def patched(*operations: dict[str, Any]) -> Kubernetes:
    return Kubernetes(pod_patch=operations)


ID = "/metadata/labels/sandbox.fullstackagent.io~1id"
CONTAINER = "/spec/containers/0"


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        ({"op": "replace", "path": ID, "value": "x"}, "/metadata/labels/sandbox.fullstackagent.io/id"),
        ({"op": "remove", "path": ID}, "/metadata/labels/sandbox.fullstackagent.io/id"),
        ({"op": "remove", "path": "/metadata/labels"}, "the shape"),
        ({"op": "replace", "path": "/metadata", "value": {}}, "the shape"),
        ({"op": "replace", "path": "/metadata/annotations", "value": {}}, "/metadata/annotations/"),
        ({"op": "replace", "path": "", "value": []}, "the shape"),
        ({"op": "replace", "path": f"{CONTAINER}/name", "value": "x"}, "the container sandbox"),
        ({"op": "copy", "from": CONTAINER, "path": "/spec/containers/-"}, "the container sandbox"),
        ({"op": "remove", "path": CONTAINER}, "the container sandbox"),
        ({"op": "replace", "path": f"{CONTAINER}/envFrom", "value": []}, "envFrom"),
        ({"op": "replace", "path": f"{CONTAINER}/volumeMounts/0/mountPath", "value": "/x"}, "volumeMounts"),
        ({"op": "add", "path": "/spec/initContainers", "value": []}, "the container copy-image-home"),
        ({"op": "remove", "path": "/spec/nowhere"}, "operation 0"),
        ({"op": "add", "path": "/spec/containers/7/image", "value": "x"}, "no such place"),
        ({"op": "test", "path": "/spec/enableServiceLinks", "value": True}, "another value"),
        ({"op": "replace", "path": f"{CONTAINER}/args", "value": []}, "no such place"),
        ({"op": "add", "path": f"{CONTAINER}/env/-", "value": {"name": "A", "value": "1"}}, "no such place"),
        ({"op": "explode", "path": "/spec"}, "no operation"),
        ({"path": "/spec"}, "no operation"),
        ({"op": "add", "path": "spec/dnsPolicy", "value": "x"}, "operation 0"),
        ({"op": "add", "path": "/spec/dnsPolicies", "value": "Default"}, "/spec/dnsPolicies"),
        ({"op": "add", "path": "/spec/dns_policy", "value": "Default"}, "fields such as dns_policy"),
        ({"op": "add", "path": "/spec/hostAliases", "value": [{"ips": ["1.2.3.4"]}]}, "/spec/hostAliases/0/ip: "),
        ({"op": "add", "path": "/spec/priority", "value": "high"}, "/spec/priority: "),
        ({"op": "add", "path": "/spec/hostNetwork", "value": "yes"}, "/spec/hostNetwork"),
        ({"op": "add", "path": "/spec/volumes", "value": {"name": "x"}}, "/spec/volumes: "),
    ],
)
def test_a_patch_that_would_fail_a_sandbox_is_refused_before_anything_is_served(
    operation: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=r"^pod-patch: ") as caught:
        kubernetes.KubernetesEngine(patched(operation), Pace(), "image")
    assert said in str(caught.value)
    with pytest.raises(ValueError, match=r"^pod-patch: "):
        kubernetes.check(patched(operation))


def test_a_patch_changes_the_pods_of_every_sandbox_alike() -> None:
    operations: tuple[dict[str, Any], ...] = (
        {"op": "add", "path": "/spec/volumes", "value": [{"name": "scratch", "emptyDir": {}}]},
        {"op": "add", "path": "/spec/volumes/-", "value": {"name": "more", "emptyDir": {}}},
        {"op": "add", "path": f"{CONTAINER}/volumeMounts/-", "value": {"name": "scratch", "mountPath": "/scratch"}},
        {"op": "add", "path": "/metadata/labels/team.example~1owner", "value": "platform"},
        {"op": "replace", "path": "/spec/securityContext/runAsUser", "value": 2000},
        {"op": "add", "path": "/spec/initContainers/0", "value": {"name": "first", "image": "first"}},
    )
    chosen = patched(*copy.deepcopy(operations))
    kubernetes.check(chosen)
    for _ in range(2):
        (pod,) = rendered(chosen, command=("/bin/run",))["Pod"]
        assert [one["name"] for one in pod["spec"]["volumes"]] == ["scratch", "more"]
        assert [one["name"] for one in pod["spec"]["containers"][0]["volumeMounts"]] == ["vn-homevn-agent", "scratch"]
        assert pod["metadata"]["labels"]["team.example/owner"] == "platform"
        assert pod["spec"]["securityContext"]["runAsUser"] == 2000
    assert chosen.pod_patch == operations
