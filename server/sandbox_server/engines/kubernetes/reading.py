"""Reads what a former system made for a sandbox as a sandbox of the service would have it: functions of manifests.

That system made a StatefulSet with a claim at the home, a Service, and Ingresses for the application and the terminal, with
the environment in the template. Its names have random parts, so that what belongs together is found by selectors and
backends, and by the label with the name of the workload.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sandbox_server.domain import check
from sandbox_server.domain.adoption import Former
from sandbox_server.domain.sandbox import Addresses, Adopted, ObjectNames
from sandbox_server.domain.spec import TERMINAL_PORT, SandboxSpec, Storage
from sandbox_server.engines.kubernetes import manifests, pods, reading_pods
from sandbox_server.engines.kubernetes.patch import Manifest
from sandbox_server.engines.kubernetes.reading_pods import Unread
from sandbox_server.settings import Defaults

LABEL = "cloud.sealos.io/app-deploy-manager"
PROJECT = "project.fullstackagent.io/name"
_FIXED = ("serviceName", "selector", "podManagementPolicy", "volumeClaimTemplates", "revisionHistoryLimit")
"""What API servers let nobody change of the spec of a StatefulSet, or did not until lately."""
_HOST = re.compile(r"[a-z][a-z0-9]{11}(?=\.)")
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class Around:
    """What is in the namespace beside the workloads."""

    services: Sequence[Manifest]
    ingresses: Sequence[Manifest]
    claims: Mapping[str, Manifest]


@dataclass(frozen=True, slots=True)
class Route:
    """An Ingress, and the port of the pod to which it leads; 0 if that is not one port."""

    manifest: Manifest
    port: int

    @property
    def host(self) -> str:
        """The first host; empty if there is none."""
        rules = self.manifest["spec"].get("rules") or ()
        return next((rule["host"] for rule in rules if rule.get("host")), "")


def read(workload: Manifest, around: Around, project: str, defaults: Defaults) -> Former:
    """Returns what was made for a StatefulSet. An empty `project` is read from its labels, or else from its name.

    Raises `Unread` for one that the service could not run as it is.
    """
    spec = workload["spec"]
    check_workload(workload)
    container = reading_pods.container(spec["template"])
    claim = _claim(workload["metadata"]["name"], spec, container, around)
    found = former(workload, around, project, defaults, _storage(claim))
    adopted = replace(
        found.adopted,
        workload=json.dumps({one: spec[one] for one in _FIXED if one in spec}),
        selector=spec["selector"]["matchLabels"],
    )
    folder = reading_pods.mount(container).get("subPath") or ""
    return replace(found, adopted=adopted, volume_uid=claim["metadata"]["uid"], home_folder=folder)


def former(workload: Manifest, around: Around, project: str, defaults: Defaults, storage: Storage) -> Former:
    """Returns what was made for a workload, but for its disk and what of it can never change. Raises as `read`."""
    name, spec = workload["metadata"]["name"], workload["spec"]
    template = spec["template"]
    container = reading_pods.container(template)
    env = reading_pods.environment(container)
    service = _service(workload, around)
    routes = [*_routes(name, service, around)]
    application, terminal = _chosen(routes)
    ports = reading_pods.ports(container, service, application.port if application else 0)
    made = reading_pods.checked(
        lambda: SandboxSpec(
            project=project or _project(workload),
            image=container.get("image") or "",
            command=reading_pods.words(container, "command", env),
            args=reading_pods.words(container, "args", env),
            ports=ports,
            resources=reading_pods.resources(container, defaults),
            storage=storage,
            runtime_class=template["spec"].get("runtimeClassName") or "",
            grace_period_seconds=min(
                template["spec"].get("terminationGracePeriodSeconds") or defaults.grace_period, check.GRACE_PERIOD_MOST
            ),
            copy_image_home=False,
        )
    )
    if application and application.port and application.port != ports[0].number:
        application = None
    objects = _names(name, spec, service, application, terminal)
    found = [one for one in (workload, service, *(one.manifest for one in routes)) if one is not None]
    used = [one.manifest for one in (application, terminal) if one is not None]
    return Former(
        kind=workload["kind"],
        name=name,
        runs=spec.get("replicas", 1) > 0,
        spec=made,
        env=env,
        objects=objects,
        addresses=_addresses(workload, objects, service, application, terminal),
        adopted=Adopted(
            uids=tuple(one["metadata"]["uid"] for one in found),
            workload="{}",
            selector={},
            container=container["name"],
            headless=service is None or service["spec"].get("clusterIP") == "None",
            app_ingress=_kept(application),
            ttyd_ingress=_kept(terminal),
            ingresses=tuple(one.manifest["metadata"]["name"] for one in routes if one.manifest not in used),
        ),
        volume_uid="",
        host=found_host[0] if application and (found_host := _HOST.match(application.host)) else "",
        notes=tuple(reading_pods.notes(template, container)),
    )


def check_workload(workload: Manifest) -> None:
    """Raises `Unread` for a workload that cannot be a sandbox."""
    metadata, spec = workload["metadata"], workload["spec"]
    if owner := (metadata.get("annotations") or {}).get(manifests.UID):
        raise Unread(f"it belongs to the sandbox with the uid {owner}, which is not in the database: restore that")
    if metadata.get("deletionTimestamp"):
        raise Unread("it is being removed: wait until it is gone")
    if not check.sandbox_id.fits(metadata["name"]):
        raise Unread(f"its name cannot be the id of a sandbox, which is {check.sandbox_id.takes}")
    if spec.get("replicas", 1) > 1:
        raise Unread(f"it has {spec['replicas']} replicas: scale it down to one, which a sandbox has")
    if (spec.get("ordinals") or {}).get("start"):
        raise Unread("its pods do not begin with number 0: a sandbox has the pod with number 0")
    selector = spec["selector"]
    if selector.get("matchExpressions") or not selector.get("matchLabels"):
        raise Unread("its selector has more than labels: the Service of a sandbox cannot select so")


def _claim(name: str, spec: Manifest, container: Manifest, around: Around) -> Manifest:
    """Returns the claim with the home."""
    home = reading_pods.mount(container)
    templates = [one["metadata"]["name"] for one in spec.get("volumeClaimTemplates") or ()]
    if home.get("name") not in templates:
        raise Unread(f"it has no disk at {pods.HOME}: it is no sandbox of the former system")
    if templates != [pods.VOLUME]:
        raise Unread(f"its disks are {', '.join(templates)}: a sandbox has the one that is named {pods.VOLUME}")
    claim = around.claims.get(f"{pods.VOLUME}-{name}-0")
    if claim is None:
        raise Unread(f"its claim {pods.VOLUME}-{name}-0 is missing: there are no files to take over")
    if claim["metadata"].get("deletionTimestamp") or (claim.get("status") or {}).get("phase") == "Lost":
        raise Unread(
            f"its claim {claim['metadata']['name']} is being removed, or has lost its volume: restore it first"
        )
    owner = (claim["metadata"].get("annotations") or {}).get(manifests.UID)
    if owner:
        raise Unread(f"its claim belongs to the sandbox with the uid {owner}, which is not in the database")
    return claim


def _storage(claim: Manifest) -> Storage:
    spec = claim["spec"]
    return Storage(
        spec["resources"]["requests"]["storage"],
        spec.get("storageClassName") or "",
        next(iter(spec.get("accessModes") or ()), ""),
    )


def _project(workload: Manifest) -> str:
    metadata = workload["metadata"]
    labelled = (metadata.get("labels") or {}).get(PROJECT, "")
    if check.project.fits(labelled):
        return str(labelled)
    name = str(metadata["name"])
    before, found, _ = name.rpartition("-agentruntime-")
    return before if found else name.rpartition("-")[0] or name


def _service(workload: Manifest, around: Around) -> Manifest | None:
    """Returns the Service of the StatefulSet: the one it names, or else one that selects its pods.

    Raises `Unread` for one that others may need.
    """
    name, spec = workload["metadata"]["name"], workload["spec"]
    labels = spec["template"]["metadata"].get("labels") or {}
    selecting = [
        one
        for one in around.services
        if (selector := one["spec"].get("selector")) and selector.items() <= labels.items() and _stays(one)
    ]
    if not selecting:
        return None
    found = min(
        selecting, key=lambda one: (one["metadata"]["name"] != spec.get("serviceName"), one["metadata"]["name"])
    )
    selector = found["spec"]["selector"]
    if not (spec["selector"]["matchLabels"].items() <= selector.items() or name in selector.values()):
        raise Unread(f"its Service {found['metadata']['name']} may select pods of others too: give it its own selector")
    return found


def is_marked(found: Manifest) -> bool:
    """Whether an object says that it is a sandbox's."""
    return manifests.UID in (found["metadata"].get("annotations") or {})


def _stays(found: Manifest) -> bool:
    return not found["metadata"].get("deletionTimestamp") and not is_marked(found)


def _routes(name: str, service: Manifest | None, around: Around) -> Iterator[Route]:
    """Yields the Ingresses that lead to the Service, in the order of their names. Raises `Unread` for one that others need."""
    if service is None:
        return
    for one in sorted(around.ingresses, key=lambda one: one["metadata"]["name"]):
        backends = [path["backend"].get("service") or {} for path in _paths(one)]
        own = [backend for backend in backends if backend.get("name") == service["metadata"]["name"]]
        if not own or not _stays(one):
            continue
        if len(own) < len(backends):
            raise Unread(f"its Ingress {one['metadata']['name']} leads to others too: give each its own Ingress")
        ports = {_target(service, backend["port"]) for backend in own}
        yield Route(one, ports.pop() if len(ports) == 1 else 0)


def _paths(ingress: Manifest) -> Iterator[Manifest]:
    for rule in ingress["spec"].get("rules") or ():
        yield from (rule.get("http") or {}).get("paths") or ()


def _target(service: Manifest, port: Mapping[str, Any]) -> int:
    """Returns the port of the pod to which a port of the Service leads; 0 if that is not known."""
    for one in service["spec"].get("ports") or ():
        if port.get("number") == one["port"] or (port.get("name") and port["name"] == one.get("name")):
            target = one.get("targetPort", one["port"])
            return target if isinstance(target, int) else one["port"]
    return 0


def _chosen(routes: Sequence[Route]) -> tuple[Route | None, Route | None]:
    """Returns the Ingresses of the application and of the terminal: where there are several, the first with a host."""
    terminals = [one for one in routes if one.port == TERMINAL_PORT and one.host]
    applications = [one for one in routes if one.port not in (0, TERMINAL_PORT) and one.host]
    applications.sort(key=lambda one: one.port != reading_pods.APPLICATION_PORT)
    return next(iter(applications), None), next(iter(terminals), None)


def _kept(route: Route | None) -> str:
    """Returns what stays of an Ingress, without the backends, all of which lead to its port."""
    if route is None:
        return ""
    spec = json.loads(json.dumps(route.manifest["spec"]))
    for path in _paths({"spec": spec}):
        del path["backend"]
    annotations = {**(route.manifest["metadata"].get("annotations") or {})}
    annotations.pop(_APPLIED, None)
    return json.dumps({"spec": spec, "annotations": annotations})


def _names(
    name: str, spec: Manifest, service: Manifest | None, application: Route | None, terminal: Route | None
) -> ObjectNames:
    fresh = ObjectNames.of(name)
    return ObjectNames(
        stateful_set=name,
        service=service["metadata"]["name"] if service else spec.get("serviceName") or fresh.service,
        secret=fresh.secret,
        app_ingress=application.manifest["metadata"]["name"] if application else fresh.app_ingress,
        ttyd_ingress=terminal.manifest["metadata"]["name"] if terminal else fresh.ttyd_ingress,
    )


def _addresses(
    workload: Manifest,
    objects: ObjectNames,
    service: Manifest | None,
    application: Route | None,
    terminal: Route | None,
) -> Addresses:
    """Returns the addresses that there are. Only a headless Service gives a pod a name."""
    namespace = workload["metadata"]["namespace"]
    headless = service is None or service["spec"].get("clusterIP") == "None"
    host = f"{objects.stateful_set}-0.{objects.service}" if headless else objects.service
    either = application or terminal
    stored = None if either is None else either.manifest["spec"]
    return Addresses(
        dns_name=f"{host}.{namespace}.svc",
        public_url=f"https://{application.host}" if application else "",
        ttyd_url=f"https://{terminal.host}" if terminal else "",
        ingress_class=None if stored is None else stored.get("ingressClassName") or "",
        tls_secret=None
        if stored is None
        else next((one.get("secretName") or "" for one in stored.get("tls") or ()), ""),
    )
