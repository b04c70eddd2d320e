"""What a former system made is read as a sandbox of the service would have it, or it is said why it cannot be."""

import copy
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from sandbox_server.domain.adoption import Former
from sandbox_server.domain.sandbox import ObjectNames
from sandbox_server.domain.spec import Port, Resources, Storage
from sandbox_server.engines.kubernetes import expansion, reading, reading_deployments
from sandbox_server.engines.kubernetes.objects import Container, Meta, Object, Owner, State, Status
from sandbox_server.engines.kubernetes.reading_pods import Unread
from sandbox_server.settings import Defaults

from tests.support import former_objects as former
from tests.support.former_objects import NAME, OLDER, of_kind

Made = list[dict[str, Any]]


def read(made: Made, project: str = "") -> Former:
    for one in made:
        one["metadata"].setdefault("uid", str(uuid.uuid4()))
    kinds = {kind: [one for one in made if one["kind"] == kind] for kind in former.COLLECTIONS}
    claims = {one["metadata"]["name"]: one for one in kinds["PersistentVolumeClaim"]}
    around = reading.Around(kinds["Service"], kinds["Ingress"], claims)
    return reading.read(kinds["StatefulSet"][0], around, project, Defaults())


def read_deployment(made: Made) -> Former:
    """Reads the Deployment beside a pod of it that runs."""
    for one in made:
        one["metadata"].setdefault("uid", str(uuid.uuid4()))
    kinds = {kind: [one for one in made if one["kind"] == kind] for kind in former.COLLECTIONS}
    claims = {one["metadata"]["name"]: one for one in kinds["PersistentVolumeClaim"]}
    (deployment,) = kinds["Deployment"]
    replica_set = Object(Meta(uid="rs", ownerReferences=[Owner(uid=deployment["metadata"]["uid"])]))
    conditions = [State(one, "True") for one in ("PodScheduled", "Ready")]
    runs = Container(OLDER, ready=True, restartCount=2, state={"running": State()})
    status = Status("Running", conditions=conditions, containerStatuses=[runs])
    pod = Object(Meta("the-pod", "pod", ownerReferences=[Owner(uid="rs")]), status=status)
    foreign = Object(Meta("another", "other", ownerReferences=[Owner(uid="another")]), status=status)
    owned = reading_deployments.Owned([replica_set], [pod, foreign])
    around = reading.Around(kinds["Service"], kinds["Ingress"], claims)
    return reading_deployments.read(deployment, around, owned, "", Defaults())


def test_a_deployment_is_read_with_a_disk_to_come_and_the_pod_that_has_its_files() -> None:
    found = read_deployment(former.objects("deployment.yaml"))
    assert (found.kind, found.name, found.runs, found.spec.project) == ("Deployment", OLDER, True, "older")
    assert found.spec.storage == Storage("5Gi", "", "ReadWriteOnce")
    assert (found.volume_uid, found.home_folder, found.spec.copy_image_home) == ("", "home", False)
    assert (found.adopted.pod, found.adopted.incarnation, found.adopted.moved) == ("the-pod", "pod.2", False)
    assert found.objects.service == f"{OLDER}-service"
    assert found.addresses.public_url == "https://zxcvbnmlkjhg.usw.sealos.io"


@pytest.mark.parametrize(
    ("volume", "says"), [({"emptyDir": {}}, ""), ({"persistentVolumeClaim": {"claimName": "shared"}}, "on the volume")]
)
def test_a_home_of_a_deployment_is_in_its_pod_alone(volume: dict[str, Any], says: str) -> None:
    made = former.objects("deployment.yaml")
    spec = of_kind(made, "Deployment")["spec"]["template"]["spec"]
    spec["volumes"] = [{"name": "home", **volume}]
    spec["containers"][0]["volumeMounts"] = [{"name": "home", "mountPath": "/home/agent"}]
    if not says:
        assert read_deployment(made).name == OLDER
        return
    with pytest.raises(Unread, match=says):
        read_deployment(made)


def test_a_claim_that_is_there_is_no_place_for_the_files_of_a_deployment() -> None:
    made = former.objects("deployment.yaml")
    claim = {"kind": "PersistentVolumeClaim", "metadata": {"name": f"vn-homevn-agent-{OLDER}-0"}}
    with pytest.raises(Unread, match="files of another"):
        read_deployment([*made, claim])


def container(made: Made) -> dict[str, Any]:
    (found,) = of_kind(made, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    return found  # type: ignore[no-any-return]


def test_a_sandbox_is_read_as_it_stands() -> None:
    made = former.objects()
    found = read(made)
    assert (found.name, found.runs, found.spec.project) == (NAME, True, "myproject")
    assert found.spec.image == "fullstackagent/fullstack-web-runtime:v0.0.1-alpha.12"
    assert found.spec.ports == (Port("tcp-3000", 3000),)
    assert found.spec.resources == Resources("20m", "200m", "25Mi", "256Mi")
    assert found.spec.storage == Storage("10Gi", "openebs-backup", "ReadWriteOnce")
    assert found.env == {
        "ANTHROPIC_API_KEY": "sk-former-canary",
        "DB_HOST": "myproject-db-postgresql",
        "DATABASE_URL": "postgresql://postgres:pa$word@myproject-db-postgresql:5432/postgres",
    }
    assert found.objects == ObjectNames(
        NAME, f"{NAME}-service", f"{NAME}-env", "network-qwertzuiopas", "network-yxcvbnmasdfg"
    )
    addresses = found.addresses
    assert addresses.public_url == "https://abcdefghijkl.usw.sealos.io"
    assert addresses.ttyd_url == "https://mnopqrstuvwx.usw.sealos.io"
    assert (addresses.ingress_class, addresses.tls_secret) == ("nginx", "wildcard-cert")
    assert addresses.dns_name == f"{NAME}-service.default.svc"
    assert found.host == "abcdefghijkl"
    assert found.volume_uid == of_kind(made, "PersistentVolumeClaim")["metadata"]["uid"]
    adopted = found.adopted
    assert set(adopted.uids) == {one["metadata"]["uid"] for one in made if one["kind"] != "PersistentVolumeClaim"}
    assert (adopted.container, adopted.selector, adopted.headless) == (NAME, {"app": NAME}, False)
    fixed = json.loads(adopted.workload)
    assert {one: of_kind(made, "StatefulSet")["spec"][one] for one in fixed} == fixed
    assert "selector" in fixed
    assert "volumeClaimTemplates" in fixed


def test_what_was_stopped_is_read_as_stopped() -> None:
    made = former.objects()
    of_kind(made, "StatefulSet")["spec"]["replicas"] = 0
    assert not read(made).runs


def test_no_value_of_a_variable_is_in_what_is_stored_beside_the_environment() -> None:
    found = read(former.objects())
    assert "canary" not in repr((found.adopted, found.spec, found.addresses, found.notes))


def test_a_further_ingress_is_named_beside_those_of_the_application_and_the_terminal() -> None:
    made = former.objects()
    third = copy.deepcopy(made[3])
    third["metadata"] = {"name": f"{NAME}-zz9-ingress", "namespace": "default"}
    third["spec"]["rules"][0]["host"] = "shop.example.com"
    found = read([*made, third])
    assert found.adopted.ingresses == ("network-qwertzuiopas",)
    assert found.objects.app_ingress == f"{NAME}-zz9-ingress"


def missing(kind: str, index: int = 0) -> Callable[[Made], None]:
    def change(made: Made) -> None:
        made.remove([one for one in made if one["kind"] == kind][index])

    return change


@pytest.mark.parametrize(
    ("change", "service", "application", "terminal"),
    [
        (missing("Ingress", 1), f"{NAME}-service", "network-qwertzuiopas", f"{NAME}-ttyd-ingress"),
        (missing("Ingress", 0), f"{NAME}-service", f"{NAME}-app-ingress", "network-yxcvbnmasdfg"),
        (missing("Service"), f"{NAME}-service", f"{NAME}-app-ingress", f"{NAME}-ttyd-ingress"),
    ],
)
def test_what_is_missing_gets_the_name_that_the_service_gives(
    change: Callable[[Made], None], service: str, application: str, terminal: str
) -> None:
    made = former.objects()
    change(made)
    names = read(made).objects
    assert (names.service, names.app_ingress, names.ttyd_ingress) == (service, application, terminal)


def test_a_service_of_another_name_is_found_by_what_it_selects() -> None:
    made = former.objects()
    of_kind(made, "StatefulSet")["spec"]["serviceName"] = "gone"
    of_kind(made, "Service")["metadata"]["name"] = NAME
    for one in made:
        if one["kind"] == "Ingress":
            one["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] = NAME
    found = read(made)
    assert (found.objects.service, found.objects.app_ingress) == (NAME, "network-qwertzuiopas")
    assert json.loads(found.adopted.workload)["serviceName"] == "gone"


def test_what_the_template_leaves_open_is_the_default() -> None:
    made = former.objects()
    for name in ("resources", "ports", "env"):
        del container(made)[name]
    found = read(made)
    defaults = Defaults()
    assert found.spec.resources.cpu_limit == defaults.default_cpu_limit
    assert (found.spec.ports, found.env) == ((Port("tcp-3000", 3000),), {})


@pytest.mark.parametrize(
    ("labels", "name", "project"),
    [
        ({"project.fullstackagent.io/name": "shop"}, NAME, "shop"),
        ({}, NAME, "myproject"),
        ({"project.fullstackagent.io/name": "Not A Name"}, NAME, "myproject"),
        ({}, "shop-x7k2", "shop"),
        ({}, "shop", "shop"),
    ],
)
def test_the_project_is_that_of_the_label_or_of_the_name(labels: dict[str, str], name: str, project: str) -> None:
    made = former.objects(name=name)
    of_kind(made, "StatefulSet")["metadata"]["labels"] = labels
    assert read(made).spec.project == project
    assert read(made, "given").spec.project == "given"


def edited(path: str, value: Any) -> Callable[[Made], None]:
    """Sets a field of the StatefulSet; `*` is the one container."""

    def change(made: Made) -> None:
        at: Any = of_kind(made, "StatefulSet")
        *steps, last = path.split(".")
        for step in steps:
            at = at["template"]["spec"]["containers"][0] if step == "*" else at[step]
        at[last] = value

    return change


def serving(port: dict[str, Any]) -> Callable[[Made], None]:
    """Gives the Service this one port."""

    def change(made: Made) -> None:
        of_kind(made, "Service")["spec"]["ports"] = [port]

    return change


def shared_ingress(made: Made) -> None:
    paths = of_kind(made, "Ingress")["spec"]["rules"][0]["http"]["paths"]
    other = copy.deepcopy(paths[0])
    other["path"], other["backend"]["service"]["name"] = "/b", "another"
    paths.append(other)


def shared_service(made: Made) -> None:
    of_kind(made, "StatefulSet")["spec"]["template"]["metadata"]["labels"]["team"] = "web"
    of_kind(made, "Service")["spec"]["selector"] = {"team": "web"}


VOLUME, HOME = "vn-homevn-agent", "/home/agent"
SIDECAR = [{"name": "agent", "image": "a"}, {"name": "proxy", "image": "b"}]
FROM = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edited("metadata.deletionTimestamp", "2026-01-02T03:04:05Z"), "being removed"),
        (edited("metadata.name", "9" * 60), "cannot be the id"),
        (edited("spec.replicas", 3), "3 replicas"),
        (edited("spec.ordinals", {"start": 1}), "number 0"),
        (edited("spec.selector", {"matchExpressions": [{"key": "app", "operator": "Exists"}]}), "selector"),
        (edited("spec.template.spec.containers", SIDECAR), "agent, proxy"),
        (edited("spec.*.volumeMounts", []), "no disk at /home/agent"),
        (edited("spec.*.env", [FROM]), "KEY"),
        (edited("spec.*.env", [{"name": "a.b", "value": "hidden"}]), "environment"),
        (edited("spec.*.envFrom", [{"configMapRef": {"name": "c"}}]), "envFrom"),
        (edited("spec.*.image", "no image"), "spec.image"),
        (edited("metadata.annotations", {"sandbox.fullstackagent.io/uid": "u-1"}), "u-1"),
        (missing("PersistentVolumeClaim"), f"vn-homevn-agent-{NAME}-0 is missing"),
        (edited("spec.*.args", ["--key", "$(ANTHROPIC_API_KEY)"]), "its args names variables"),
        (edited("spec.*.volumeMounts", [{"name": VOLUME, "mountPath": HOME, "subPathExpr": "$(A)"}]), "subPathExpr"),
        (serving({"port": 80, "targetPort": 3000}), "leads port 80 to 3000"),
        (serving({"port": 80, "targetPort": "http"}), "leads port 80 to http"),
        (shared_ingress, "network-qwertzuiopas leads to others"),
        (shared_service, "may select pods of others"),
    ],
)
def test_what_cannot_be_adopted_is_refused_with_the_cause(change: Callable[[Made], None], words: str) -> None:
    made = former.objects()
    change(made)
    with pytest.raises(Unread, match=words) as refused:
        read(made)
    assert "hidden" not in str(refused.value)
    assert "canary" not in str(refused.value)


def test_a_port_that_is_named_and_the_same_is_read() -> None:
    made = former.objects()
    container(made)["ports"] = [{"name": "web", "containerPort": 3000}]
    of_kind(made, "Service")["spec"]["ports"][0] |= {"port": 3000, "targetPort": "web"}
    assert read(made).spec.ports[0].number == 3000


def test_what_pods_of_the_service_will_not_have_is_noted() -> None:
    made = former.objects()
    found = container(made)
    found["volumeMounts"].append({"name": "config", "mountPath": "/etc/config"})
    found["livenessProbe"] = {"tcpSocket": {"port": 3000}}
    of_kind(made, "StatefulSet")["spec"]["template"]["spec"]["nodeSelector"] = {"disk": "fast"}
    left = "its nodeSelector, livenessProbe is left out"
    assert read(made).notes == ("its further mounts are left out: /etc/config", left)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [("$(A)-$(B)", "1-$(B)"), ("$$(A)", "$(A)"), ("a$b$", "a$b$"), ("$$$(A)", "$1"), ("$(A", "$(A"), ("$()", "$()")],
)
def test_variables_are_expanded_as_a_kubelet_does(text: str, expanded: str) -> None:
    assert expansion.expanded(text, {"A": "1"}) == expanded
