"""What the chart renders: every object, each setting as it was given, and refusals that say what to do."""

import os
import re
from typing import Any
from unittest import mock

import pytest
import yaml
from sandbox_server import monitoring, settings
from sandbox_server.domain.pace import Pace

from tests.kubernetes import charts

SQLITE = {
    "image.repository": "registry.example.com/sandbox-service",
    "replicas": 1,
    "tenantNamespaces": ["sandboxes"],
    "database.sqlite.enabled": True,
    "allowAnonymous": True,
    "allowPlaintext": True,
}
NAME = "r-sandbox-service"


def by_kind(objects: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for one in objects:
        found.setdefault(one["kind"], []).append(one)
    return found


def production(**values: Any) -> dict[str, list[dict[str, Any]]]:
    return by_kind(charts.rendered(values, "--values", charts.PRODUCTION))


def sqlite(**values: Any) -> dict[str, list[dict[str, Any]]]:
    return by_kind(charts.rendered(SQLITE | values))


def server(objects: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    (deployment,) = objects["Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(container)


def environment(container: dict[str, Any]) -> dict[str, str]:
    """The variables as the process gets them: in Kubernetes `$$` is one `$`. Those from Secrets have a value that fits."""
    return {
        one["name"]: one["value"].replace("$$", "$") if "value" in one else "postgresql://db/sandboxes"
        for one in container["env"]
    }


def loaded(container: dict[str, Any]) -> settings.Settings:
    with mock.patch.dict(os.environ, {**environment(container), "KUBERNETES_SERVICE_HOST": "10.0.0.1"}):
        assert settings.unknown(environment(container)) == {}
        return settings.load([])


def pods(objects: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The specs of all pods."""
    return [
        *(one["spec"]["template"]["spec"] for kind in ("Deployment", "Job") for one in objects.get(kind, [])),
        *(one["spec"] for one in objects["Pod"]),
    ]


def test_helm_lint_has_nothing_to_say_against_it() -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in charts.helm(
        "lint", "--strict", charts.CHART, "--values", charts.PRODUCTION
    )


def test_production_has_three_replicas_with_tls_tokens_and_keys_on_postgresql() -> None:
    objects = production()
    assert set(objects) == {
        "Deployment",
        "Job",
        "NetworkPolicy",
        "Pod",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    }
    (deployment,) = objects["Deployment"]
    assert deployment["spec"]["replicas"] == 3
    assert deployment["spec"]["strategy"] == {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    (budget,) = objects["PodDisruptionBudget"]
    assert budget["spec"]["maxUnavailable"] == 1
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [budget["spec"]["selector"]["matchLabels"], objects["Service"][0]["spec"]["selector"]]
    selectors += [objects["NetworkPolicy"][0]["spec"]["podSelector"]["matchLabels"]]
    selectors += [one["labelSelector"]["matchLabels"] for one in spread]
    assert all(one == deployment["spec"]["selector"]["matchLabels"] for one in selectors)
    assert labels.items() >= selectors[0].items()
    chosen = loaded(server(objects))
    assert chosen.engine == "kubernetes"
    assert chosen.database == "postgresql://db/sandboxes"
    assert (chosen.ingress_domain, chosen.default_image) == ("sandboxes.example.com", "registry.example.com/sandbox:1")
    assert chosen.log_format == "json"
    assert None not in (chosen.tls_cert, chosen.tls_key, chosen.token_file, chosen.encryption_key_file)
    assert not chosen.allow_anonymous
    (job,) = objects["Job"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    (migration,) = job["spec"]["template"]["spec"]["containers"]
    assert migration["args"] == ["migrate"]
    assert loaded(migration).database == chosen.database
    doctor, health = sorted(objects["Pod"], key=lambda one: str(one["metadata"]["name"]))
    (examined,) = doctor["spec"]["containers"]
    assert (examined["args"], examined["env"]) == (["doctor"], server(objects)["env"])
    assert doctor["spec"]["serviceAccountName"] == deployment["spec"]["template"]["spec"]["serviceAccountName"]
    assert health["spec"]["containers"][0]["args"] == ["health"]
    # It is nothing that the Service sends calls to.
    assert not job["spec"]["template"]["metadata"]["labels"].items() >= selectors[0].items()


def test_sqlite_has_one_replica_that_is_recreated_and_a_disk_that_is_kept() -> None:
    objects = sqlite()
    assert set(objects) == {
        "Deployment",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "Pod",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    }
    (deployment,) = objects["Deployment"]
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    spec = deployment["spec"]["template"]["spec"]
    (claim,) = objects["PersistentVolumeClaim"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert {"name": "data", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}} in spec["volumes"]
    (migration,) = spec["initContainers"]
    assert migration["args"] == ["migrate"]
    chosen = loaded(server(objects))
    assert chosen.database == chosen.data_dir / "sandbox.db" == loaded(migration).database
    assert {"name": "data", "mountPath": str(chosen.data_dir)} in server(objects)["volumeMounts"]
    assert chosen.namespace_names == ("sandboxes",)


@pytest.mark.parametrize("made", [production, sqlite])
def test_every_pod_is_restricted_and_writes_only_to_its_volumes(made: Any) -> None:
    for spec in pods(made()):
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (1001, 1001, 1001)
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {one["name"] for one in container["volumeMounts"]} <= {one["name"] for one in spec["volumes"]}
        # What the group of the service may read, and nobody else.
        assert {one["secret"]["defaultMode"] for one in spec["volumes"] if "secret" in one} <= {0o440}
        assert spec["enableServiceLinks"] is False


def test_every_file_that_a_setting_names_is_in_a_volume() -> None:
    container = server(production())
    mounts = [one["mountPath"] for one in container["volumeMounts"]]
    files = [value for value in environment(container).values() if value.startswith("/run/secrets/")]
    assert len(files) == 4
    assert all(one.rpartition("/")[0] in mounts for one in files)


def test_probes_ask_over_http_and_wait_longer_than_the_service_does() -> None:
    container = server(production())
    named = {one["name"]: one["containerPort"] for one in container["ports"]}
    paths = {"startupProbe": "/healthz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    for name, path in paths.items():
        assert container[name]["httpGet"] == {"path": path, "port": "http"}
        assert container[name]["timeoutSeconds"] > monitoring.PROBE_MOST
    chosen = loaded(container)
    assert chosen.metrics_listen == f"0.0.0.0:{named['http']}"
    assert chosen.listen == f"0.0.0.0:{named['grpc']}"


@pytest.mark.parametrize("grace", [None, 60])
def test_a_pod_has_the_time_that_the_service_takes_to_stop(grace: int | None) -> None:
    objects = production(**({} if grace is None else {"settings.shutdown-grace": grace}))
    (deployment,) = objects["Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    before = server(objects)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] > before + (grace or Pace.shutdown_grace)


def test_each_tenant_namespace_has_the_one_role_and_its_binding() -> None:
    objects = production(tenantNamespaces=["a", "b"])
    rules = yaml.safe_load((charts.DEPLOY / "role.yaml").read_text())["rules"]
    access = yaml.safe_load((charts.DEPLOY / "access.yaml").read_text())["rules"]
    snapshots = yaml.safe_load((charts.DEPLOY / "snapshots.yaml").read_text())["rules"]
    verification = yaml.safe_load((charts.DEPLOY / "verification.yaml").read_text())["rules"]
    resize = yaml.safe_load((charts.DEPLOY / "resize.yaml").read_text())["rules"]
    roles = [(one["metadata"]["namespace"], one["rules"]) for one in objects["Role"]]
    assert roles == [(name, [*rules, *access, *snapshots, *verification, *resize]) for name in ("a", "b")]
    (without,) = production(tenantNamespaces=["a"], access=False, snapshots=False, verification=False, resize=False)[
        "Role"
    ]
    assert without["rules"] == rules
    account = {"kind": "ServiceAccount", "name": NAME, "namespace": "system"}
    for one in objects["RoleBinding"]:
        assert (one["roleRef"]["kind"], one["roleRef"]["name"], one["subjects"]) == ("Role", NAME, [account])
    assert objects["ServiceAccount"][0]["metadata"]["name"] == NAME
    assert "ClusterRole" not in objects
    (role,) = production(tenantNamespaces=["a", "b"], clusterRights=True)["ClusterRole"]
    (rule,) = yaml.safe_load((charts.DEPLOY / "namespaces.yaml").read_text())["rules"]
    classes = yaml.safe_load((charts.DEPLOY / "doctor.yaml").read_text())["rules"]
    assert role["rules"] == [rule | {"resourceNames": ["a", "b"]}, *classes]


@pytest.mark.parametrize("made", [production, sqlite])
def test_every_object_names_its_namespace_so_that_kubectl_applies_them_all_at_once(made: Any) -> None:
    objects = [one for several in made(clusterRights=True).values() for one in several]
    places = {"Role": "sandboxes", "RoleBinding": "sandboxes", "ClusterRole": None, "ClusterRoleBinding": None}
    for one in objects:
        assert one["metadata"].get("namespace") == places.get(one["kind"], "system"), one["kind"]


def test_settings_of_every_kind_arrive_as_they_were_given() -> None:
    patch = [{"op": "add", "path": "/spec/hostname", "value": "$(POD_NAME)-$$"}]
    values = {
        "settings.history": 1_209_600,
        "settings.workers": 32,
        "settings.copy-image-home": False,
        "settings.resync": 7.5,
        "settings.allowed-annotations": ["example.com/", "sidecar.istio.io/inject"],
        "settings.pull-secrets": [],
        "settings.node-selector": {"pool": "sandboxes"},
        "settings.ingress-annotations": {"example.com/text": "a, \"b\": 'c' $(D)"},
        "settings.tolerations": [{"key": "sandboxes", "operator": "Exists"}],
        "settings.pod-patch": patch,
        "settings.ingress-class": "",
        "settings.tenant": "a",
    }
    chosen = loaded(server(production(**values)))
    assert (chosen.history, chosen.workers, chosen.copy_image_home, chosen.resync) == (1_209_600, 32, False, 7.5)
    assert chosen.allowed_annotations == ("example.com/", "sidecar.istio.io/inject")
    assert chosen.pull_secrets == ()
    assert chosen.tolerations == ({"key": "sandboxes", "operator": "Exists"},)
    assert list(chosen.pod_patch) == patch
    assert (chosen.ingress_class, chosen.tenant) == ("", "a")
    assert chosen.node_selector == {"pool": "sandboxes"}
    assert chosen.ingress_annotations == {"example.com/text": "a, \"b\": 'c' $(D)"}


REFUSED = [
    ({"replicas": 2}, "replicas: 2 replicas cannot share SQLite: give replicas=1, or database.secret"),
    ({"database.secret": "x"}, "database: give database.secret (PostgreSQL) or database.sqlite.enabled, not both"),
    ({"database.sqlite.enabled": False}, "database: give database.secret, a Secret with the URL of PostgreSQL, or"),
    (
        {"database.sqlite.enabled": False, "database.secret": "x"},
        "keys.secret: PostgreSQL needs a Secret with env.keys",
    ),
    ({"allowPlaintext": False}, "tls.secret: give a Secret of the type kubernetes.io/tls, or allowPlaintext=true"),
    ({"allowAnonymous": False}, "tokens.secret: give a Secret with tenants.json, or allowAnonymous=true"),
    ({"tokens.secret": "x"}, "allowAnonymous: tokens.secret is given"),
    ({"image.repository": ""}, "at '/image/repository': minLength: got 0, want 1"),
    ({"tenantNamespaces": []}, "at '/tenantNamespaces': minItems: got 0, want 1"),
    ({"tenantNamespaces": ["A"]}, "at '/tenantNamespaces/0': 'A' does not match pattern"),
    # A number loses its zeros: 1.10 would be 1.1.
    ({"image.tag": 1.10}, "at '/image/tag': got number, want string"),
    ({"replica": 1}, "additional properties 'replica' not allowed"),
    ({"database.sqllite": {}}, "at '/database': additional properties 'sqllite' not allowed"),
    ({"strategy": "RollingUpdate"}, "additional properties 'strategy' not allowed"),
    ({"settings.ingres-domain": "x"}, "at '/settings': additional properties 'ingres-domain' not allowed"),
    ({"settings.workers": "16"}, "at '/settings/workers': got string, want integer"),
    ({"settings.log-level": "loud"}, "at '/settings/log-level': value must be one of 'debug', 'info'"),
    ({"settings.database-url": "x"}, "settings.database-url: the chart sets it from database.secret: give that"),
    ({"settings.engine": "local"}, "settings.engine: the chart sets it: leave it out"),
    ({"settings.local-ports": "1-2"}, "settings.local-ports: the local engine does not run in a cluster: leave it out"),
]


@pytest.mark.parametrize(("values", "words"), REFUSED, ids=[",".join(values) for values, _ in REFUSED])
def test_a_value_that_cannot_be_is_refused_with_words(values: dict[str, Any], words: str) -> None:
    charts.rendered(SQLITE)
    with pytest.raises(charts.HelmFailed, match=re.escape(words)):
        charts.rendered(SQLITE | values)


def test_every_setting_that_the_chart_sets_is_refused_among_the_settings() -> None:
    chart = {name for container in (server(production()), server(sqlite())) for name in environment(container)}
    passed = {"SANDBOX_INGRESS_DOMAIN", "SANDBOX_DEFAULT_IMAGE", "SANDBOX_LOG_FORMAT"}
    names = sorted(one.removeprefix("SANDBOX_").replace("_", "-").lower() for one in chart - passed)
    assert len(names) > 10
    for name in [*names, "encryption-keys", "kubeconfig"]:
        value = True if name.startswith("allow-") else "kubernetes"
        with pytest.raises(charts.HelmFailed, match=f"settings.{name}: the chart sets it"):
            charts.rendered(SQLITE | {f"settings.{name}": value})


def test_the_network_is_open_to_those_who_are_named() -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "callers"}}}]
    (policy,) = production(**{"networkPolicy.callers": peers})["NetworkPolicy"]
    assert policy["spec"]["ingress"] == [{"ports": [{"port": "grpc"}], "from": peers}, {"ports": [{"port": "http"}]}]
    assert "NetworkPolicy" not in production(**{"networkPolicy.enabled": False})


def test_page_of_terminals_is_served_where_its_url_is_given_and_nowhere_else() -> None:
    assert loaded(server(production())).access_addresses == ()
    objects = production(**{"terminals.url": "https://terminals.example.com"})
    chosen = loaded(server(objects))
    (port,) = [one["containerPort"] for one in server(objects)["ports"] if one["name"] == "terminals"]
    assert (chosen.access_addresses, chosen.access_url) == ((f"0.0.0.0:{port}",), "https://terminals.example.com")
    (service,), (policy,) = objects["Service"], objects["NetworkPolicy"]
    assert {"name": "terminals", "port": port, "targetPort": "terminals"} in service["spec"]["ports"]
    assert {"ports": [{"port": "terminals"}]} in policy["spec"]["ingress"]


def test_a_pod_monitor_scrapes_the_port_of_the_metrics() -> None:
    (monitor,) = production(**{"podMonitor.enabled": True})["PodMonitor"]
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "http", "path": "/metrics", "interval": "30s"}]
