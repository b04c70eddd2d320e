"""Sandboxes that a former system made, and what becomes of them."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from sandbox_server.domain import check, mutations
from sandbox_server.domain.legacy import Fact
from sandbox_server.domain.phase import DesiredState, Phase, Reason
from sandbox_server.domain.sandbox import Addresses, Adopted, Key, ObjectNames, Sandbox
from sandbox_server.domain.spec import SandboxSpec


class Refused(ValueError):
    """What is wanted with one object cannot be done. The text says why, and ends with the next step."""


class Outcome(enum.Enum):
    """What becomes of what was found. The value is the word for programs."""

    ADOPTED = "adopted"
    UNCHANGED = "unchanged"
    GIVEN_BACK = "given back"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Former:
    """What a former system made for one sandbox, as a sandbox of the service would have it.

    `kind`: StatefulSet or Deployment. `volume_uid` is empty if it has no disk yet. `host`: the first label of the host of the application, if it can be that of a sandbox. `notes` say what will be no more
    once the service makes the pod.
    """

    kind: str
    name: str
    runs: bool
    spec: SandboxSpec
    env: Mapping[str, str]
    objects: ObjectNames
    addresses: Addresses
    adopted: Adopted
    volume_uid: str
    host: str = ""
    home_folder: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unfit:
    """Something that carries the labels of a former system and cannot be adopted. `why` ends with the next step."""

    kind: str
    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of the report: an object, what becomes of it, and why if that is nothing."""

    kind: str
    name: str
    outcome: Outcome
    why: str = ""
    project: str = ""
    desired: str = ""
    public_url: str = ""
    ttyd_url: str = ""
    notes: tuple[str, ...] = ()


def sandbox(former: Former, key: Key, tenant: str, uid: str, host: str, now: datetime) -> Sandbox:
    """Returns the sandbox that adopts what was found: running, or stopped, as it is now."""
    made = mutations.new(key, tenant, uid, host, former.spec, former.env, now)
    adopted = replace(
        made,
        objects=former.objects,
        addresses=former.addresses,
        adopted=former.adopted,
        volume_uid=former.volume_uid,
        home_folder=former.home_folder,
    )
    if former.runs:
        return adopted
    status = replace(made.status, phase=Phase.STOPPED)
    return replace(adopted, desired=DesiredState.STOPPED, status=status)


def told(found: Former, fact: Fact | None, project: str) -> Former:
    """Returns what was found, with the project and the labels that an import told of it. A `project` that is given counts more."""
    if fact is None:
        return found
    known = fact.project if not project and check.project.fits(fact.project) else found.spec.project
    return replace(found, spec=replace(found.spec, project=known, labels=fact.labels))


def completed(found: Addresses, fresh: Addresses) -> Addresses:
    """Returns the addresses that were found, with those of a new sandbox where there are none."""
    return replace(
        found,
        public_url=found.public_url or fresh.public_url,
        ttyd_url=found.ttyd_url or fresh.ttyd_url,
        ingress_class=fresh.ingress_class if found.ingress_class is None else found.ingress_class,
        tls_secret=fresh.tls_secret if found.tls_secret is None else found.tls_secret,
    )


def check_free(former: Sandbox | None, found: Former) -> None:
    """Raises `Refused` if a sandbox has the key, or has left another volume there."""
    if former is None:
        return
    ended = former.status.phase is Phase.TERMINATED
    kept = former.status.reason is Reason.VOLUME_KEPT and former.volume_uid != found.volume_uid
    if not ended or kept:
        raise Refused(f"another sandbox has the id {found.name!r}, or has left a volume: delete that first")


def given_back(before: Sandbox) -> Sandbox:
    """The sandbox ends, and everything is as before it was adopted. Raises `Refused` once it is too late."""
    if before.adopted is not None and before.adopted.moved:
        raise Refused("its Deployment has made way for it, since it has run: it stays with the service, or is deleted")
    if before.adopted is None or not before.awaits_takeover:
        raise Refused(
            "its template is the service's, since it was started, stopped or changed: it stays with the service, or is deleted"
        )
    adopted = replace(before.adopted, given_back=True)
    # Its disk is not the sandbox's any more, so that nothing removes it.
    return replace(before, desired=DesiredState.DELETED, adopted=adopted, volume_uid="", keep_volume=False)
