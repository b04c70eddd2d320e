"""Checks the classes that the objects of sandboxes name: for their disks and for their URLs."""

from collections.abc import Sequence

from sandbox_server import engines
from sandbox_server.doctor.examination import Check, Failed
from sandbox_server.doctor.report import Result
from sandbox_server.engines.kubernetes import inspection
from sandbox_server.engines.kubernetes.client import Client
from sandbox_server.engines.kubernetes.inspection import Class

DEFAULT = "the default"
"""The subject of a check of the class that objects get which name none."""


async def storage(check: Check, api: Client) -> list[Result]:
    """Checks a storage class: that it is there, that its disks can grow, and when they are made."""
    found = await _listed(check, api, inspection.STORAGE_CLASSES)
    if isinstance(found, Result):
        return [found]
    chosen, *others = _chosen(check, found, "storage class", "storage-class")
    name = chosen.metadata.name
    warnings = []
    if others:
        warnings.append(_several(check, [chosen, *others], "storage-class"))
    if not chosen.allowVolumeExpansion:
        remedy = f"if its driver can do that, run `kubectl patch storageclass {name} -p '{{\"allowVolumeExpansion\": true}}'`"
        warnings.append(check.warning(f"{name}: its disks cannot grow", remedy))
    if chosen.volumeBindingMode == "Immediate":
        message = (
            f"{name}: a disk is made before its pod has a node, which may be unable to reach it, as in another zone"
        )
        warnings.append(check.warning(message, "use a storage class with volumeBindingMode: WaitForFirstConsumer"))
    return warnings or [
        check.ok(f"{name} of {chosen.provisioner} is there; disks can grow, {chosen.volumeBindingMode}")
    ]


async def ingress(check: Check, api: Client) -> list[Result]:
    """Checks that an ingress class is there."""
    found = await _listed(check, api, inspection.INGRESS_CLASSES)
    if isinstance(found, Result):
        return [found]
    chosen, *others = _chosen(check, found, "ingress class", "ingress-class")
    return [
        _several(check, [chosen, *others], "ingress-class") if others else check.ok(f"{chosen.metadata.name} is there")
    ]


async def _listed(check: Check, api: Client, path: str) -> Sequence[Class] | Result:
    """Returns the classes; or, without the right to list them, that nothing is known."""
    kind = path.rpartition("/")[2]
    try:
        return await inspection.classes(api, path)
    except engines.Refused:
        why = f"the service may not list {kind} (an optional right: deploy/doctor.yaml)"
        return check.not_checked(why, f"see `kubectl get {kind}`")


def _chosen(check: Check, found: Sequence[Class], kind: str, setting: str) -> list[Class]:
    """Returns the class that is the subject of the check, or each that is a default. Raises `Failed` if there is none."""
    plural = kind.replace(" ", "") + ("es" if kind.endswith("s") else "s")
    names = ", ".join(one.metadata.name for one in found) or "none"
    if check.subject != DEFAULT:
        chosen = [one for one in found if one.metadata.name == check.subject]
        if not chosen:
            raise Failed(
                f"does not exist; there are: {names}", f"make it, or name another {kind}; see `kubectl get {plural}`"
            )
        return chosen
    chosen = [one for one in found if one.is_default]
    if not chosen:
        message = f"the cluster has no default {kind}; there are: {names}"
        raise Failed(message, f"name one in {setting}, or make one the default")
    return chosen


def _several(check: Check, found: Sequence[Class], setting: str) -> Result:
    names = ", ".join(one.metadata.name for one in found)
    return check.warning(
        f"several are the default: {names}; the newest counts", f"name the one that is meant in {setting}"
    )
