"""What a former system made, for a scripted API server."""

from pathlib import Path
from typing import Any

import yaml

from tests.support.scripted import CLAIMS, INGRESSES, PODS, SERVICES, SETS
from tests.support.scripted_api import ScriptedApi

FOLDER = Path(__file__).parents[1] / "migration"
NAME = "myproject-agentruntime-x7k2p9"
OLDER = "older-agentruntime-q4m8z1"
"""The name of a Deployment."""
DEPLOYMENTS = "apis/apps/v1/namespaces/default/deployments"
REPLICA_SETS = "apis/apps/v1/namespaces/default/replicasets"
COLLECTIONS = {
    "StatefulSet": SETS,
    "Service": SERVICES,
    "Ingress": INGRESSES,
    "PersistentVolumeClaim": CLAIMS,
    "Deployment": DEPLOYMENTS,
}


def objects(file: str = "sandbox.yaml", name: str = NAME) -> list[dict[str, Any]]:
    """The manifests of a file, for a sandbox of another name if that is given: its other random parts differ too."""
    text = (FOLDER / file).read_text()
    if name not in (NAME, OLDER):
        text = text.replace(NAME, name).replace(OLDER, name)
        for part in ("qwertzuiopas", "yxcvbnmasdfg", "abcdefghijkl", "mnopqrstuvwx", "plmoknijbuhv", "zxcvbnmlkjhg"):
            text = text.replace(part, f"{part[:6]}{abs(hash((part, name))) % 1_000_000:06d}")
    return list(yaml.safe_load_all(text))


def of_kind(made: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The first object of a kind."""
    return next(one for one in made if one["kind"] == kind)


def put(api: ScriptedApi, made: list[dict[str, Any]]) -> None:
    """Makes the objects as the former system did, and the pods of its StatefulSets and Deployments."""
    for one in made:
        api.put(COLLECTIONS[one["kind"]], one, "node-fetch")
    for one in made:
        if one["kind"] == "StatefulSet":
            api.control("default", one["metadata"]["name"])
        if one["kind"] == "Deployment" and one["spec"]["replicas"]:
            _control(api, one["metadata"]["name"])


def _control(api: ScriptedApi, name: str) -> None:
    """Makes the ReplicaSet and the pod of a Deployment, as its controllers do."""
    spec = api.objects[DEPLOYMENTS][name]["spec"]
    made = api.put(
        REPLICA_SETS, {"metadata": _owned(f"{name}-7d5b8c9f6", api.objects[DEPLOYMENTS][name], "Deployment")}
    )
    labels = spec["template"]["metadata"]["labels"] | {"pod-template-hash": "7d5b8c9f6"}
    metadata = _owned(f"{name}-7d5b8c9f6-x2x4z", made, "ReplicaSet") | {"labels": labels}
    api.put(PODS, {"metadata": metadata, "spec": spec["template"]["spec"]})
    api.start_pod(PODS, metadata["name"])


def _owned(name: str, owner: dict[str, Any], kind: str) -> dict[str, Any]:
    reference = {"kind": kind, "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
    return {"name": name, "ownerReferences": [reference]}


def pod_of(api: ScriptedApi, name: str) -> dict[str, Any]:
    """The pod of a Deployment."""
    return api.objects[PODS][f"{name}-7d5b8c9f6-x2x4z"]
