"""What stays of the objects that a former system made, in the manifests of the sandbox that has adopted them."""

import json

from sandbox_server.domain.sandbox import Adopted
from sandbox_server.engines.kubernetes import pods
from sandbox_server.engines.kubernetes.patch import Manifest
from sandbox_server.engines.kubernetes.resources import Resource

_CHOSEN_BY = ("app", "cloud.sealos.io/app-deploy-manager")


def keep_workload(made: Resource, adopted: Adopted) -> None:
    """Gives the StatefulSet the fields that can never change, and its pods the labels by which it selects them."""
    spec = made.manifest["spec"]
    spec |= json.loads(adopted.workload)
    metadata = spec["template"]["metadata"]
    labels = metadata["labels"]
    if adopted.pod:
        # The Service chooses the former pod by these until that has been let go.
        labels = {name: value for name, value in labels.items() if name not in _CHOSEN_BY}
    metadata["labels"] = labels | adopted.selector
    metadata["annotations"] = metadata["annotations"] | {pods.NAMED: adopted.container}


def kept_service(adopted: Adopted, spec: Manifest) -> Manifest:
    """Returns the spec of the Service, which selects the pods of the former template too."""
    own = spec if adopted.headless else {name: value for name, value in spec.items() if name != "clusterIP"}
    return own | {"selector": {**adopted.selector}}


def keep_ingress(made: Resource, kept: str) -> None:
    """Gives the Ingress its former spec and annotations, if there was one: what is reached by which path stays so."""
    if not kept:
        return
    stored = json.loads(kept)
    manifest = made.manifest
    backend = manifest["spec"]["rules"][0]["http"]["paths"][0]["backend"]
    for rule in stored["spec"].get("rules", ()):
        for path in rule.get("http", {}).get("paths", ()):
            path.setdefault("backend", backend)
    manifest["spec"] = stored["spec"]
    metadata = manifest["metadata"]
    metadata["annotations"] = stored["annotations"] | metadata["annotations"]
